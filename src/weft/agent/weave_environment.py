"""Weave Net's settings that are no options here: each is refused, told to have no effect, or silently fine.

Those that are options (IPALLOC_RANGE, WEAVE_MTU, …) are read by the command line. All of them: docs/kubernetes.md
"""

from collections.abc import Mapping

#: Cannot be honoured, and running without would be something else than what was asked for.
_REFUSED = {
    "WEAVE_PASSWORD": "traffic between nodes is not encrypted; remove it to run without encryption",
    "WEAVE_EXPOSE_IP": "the bridge takes the first address of the node's first block; remove it",
}
#: Set to this value only, they ask for what there is not.
_REFUSED_VALUES = {
    ("NO_MASQ_LOCAL", "0"): "packets to pods always keep the address of whoever sent them; remove it or set 1",
    ("IPTABLES_BACKEND", "legacy"): "rules are nftables'; remove it",
}
#: Harmless, but whoever set them should know.
_WITHOUT_EFFECT = {
    "KUBE_PEERS": "peers come from the cluster's Node objects",
    "CONN_LIMIT": "nodes keep no connections to each other",
    "WEAVE_NO_FASTDP": "there is one datapath, the kernel's VXLAN",
    "DB_PREFIX": "state is in --state-dir",
    "HOST_ROOT": "folders of the host are mounted where they are",
}


def refusals(environment: Mapping[str, str]) -> list[str]:
    """What keeps an agent from starting, a line each; values are not repeated, for one is a password."""
    found = [f"{name} is set: {why}" for name, why in _REFUSED.items() if environment.get(name)]
    found += [
        f"{name}={value}: {why}"
        for (name, value), why in _REFUSED_VALUES.items()
        if environment.get(name) == value
    ]
    return found


def notes(environment: Mapping[str, str]) -> list[str]:
    """What has no effect, a line each."""
    return [f"{name} has no effect: {why}" for name, why in _WITHOUT_EFFECT.items() if environment.get(name)]
