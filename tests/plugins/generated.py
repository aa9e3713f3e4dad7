"""Configurations that a generator makes: mostly such as users write, now and then such as nobody should.

Strategies give whole chains with what a runtime passes beside them. They may be refused; what the reference says
is what counts. Keys that Debian's reference (1.1.1) does not know are left to the plugins' own tests.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from hypothesis import strategies as st

Configuration = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One attachment: the chain, and what the runtime says."""

    chain: list[Configuration]
    runtime: dict[str, Any] = field(default_factory=dict)
    args: str = ""
    version: str = "1.0.0"
    network: str = "net"


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Configuration]:
    """Some of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


flags = st.booleans()
macs = st.integers(0, 255).map(lambda last: f"02:00:00:00:00:{last:02x}")
subnets4 = st.builds(
    lambda second, third, prefix: ip_network(f"10.{second}.{third}.0/{prefix}", strict=False),
    st.integers(20, 29), st.integers(0, 255), st.integers(16, 29),
)  # fmt: skip
subnets6 = st.builds(
    lambda third, prefix: ip_network(f"fd00:{third:x}::/{prefix}", strict=False),
    st.integers(1, 0xFFFF),
    st.sampled_from([64, 80, 112, 120]),
)
words = st.text("abcdef", min_size=1, max_size=4)
dns = optional(
    nameservers=st.lists(st.sampled_from(["10.1.0.1", "fd00::53"]), max_size=2),
    domain=words,
    search=st.lists(words, max_size=2),
    options=st.lists(words, max_size=2),
)


def within(subnet: IPv4Network | IPv6Network) -> st.SearchStrategy[str]:
    """An address of a subnet, near its beginning, or its last one."""
    last = subnet.num_addresses - 1
    return st.integers(0, min(last, 20)).map(lambda number: str(subnet[number])) | st.just(str(subnet[last]))


@st.composite
def ranges(draw: st.DrawFn, subnet: IPv4Network | IPv6Network) -> Configuration:
    """A range of ``host-local``; its ends may be the wrong way round."""
    made: Configuration = {"subnet": str(subnet)}
    if draw(flags):
        made["gateway"] = draw(within(subnet))
    if draw(flags):
        # The reference gives out the broadcast address where a range begins there; ours refuses it.
        made["rangeStart"] = draw(within(subnet).filter(lambda address: address != str(subnet[-1])))
    if draw(flags):
        made["rangeEnd"] = draw(within(subnet))
    return made


@st.composite
def routes(draw: st.DrawFn, subnets: list[IPv4Network | IPv6Network]) -> list[Configuration]:
    """Routes of the families that there are, with or without a gateway in the family's subnet."""
    made = []
    for subnet in subnets:
        destinations = (
            ["192.0.2.0/24", "198.51.100.7/32", "203.0.113.0/25"]
            if subnet.version == 4
            else ["fd99::/64", "fd98::1/128"]
        )
        for destination in draw(st.lists(st.sampled_from(destinations), unique=True, max_size=2)):
            route = {"dst": destination}
            if draw(flags):
                route["gw"] = draw(within(subnet))
            made.append(route)
    return made


@st.composite
def host_local(draw: st.DrawFn) -> tuple[Configuration, Configuration, str]:
    """``ipam`` of ``host-local``, capability arguments and CNI_ARGS for it."""
    subnets: list[Any] = draw(
        st.one_of(
            subnets4.map(lambda one: [one]),
            subnets6.map(lambda one: [one]),
            st.tuples(subnets4, subnets6).map(list),
        )
    )
    made: Configuration = {"type": "host-local", "dataDir": "HERE/ipam", "routes": draw(routes(subnets))}
    sets = [[draw(ranges(subnet))] for subnet in subnets]
    if len(sets) == 1 and draw(flags):
        made |= sets[0][0]  # the flat form of old
    else:
        made["ranges"] = sets
    runtime: Configuration = {}
    args = ""
    match draw(st.sampled_from(["", "", "", "runtime", "args"])):
        case "runtime":
            runtime = {"ips": [draw(within(subnets[0]))]}
        case "args":
            args = f"IgnoreUnknown=1;IP={draw(within(subnets[0]))}"
    return made, runtime, args


@st.composite
def static(draw: st.DrawFn) -> tuple[Configuration, Configuration, str]:
    """``ipam`` of ``static``."""
    subnets: list[Any] = draw(st.lists(subnets4 | subnets6, min_size=1, max_size=2, unique_by=str))
    addresses = []
    for subnet in subnets:
        address = {"address": f"{draw(within(subnet))}/{subnet.prefixlen}"}
        if draw(flags):
            address["gateway"] = draw(within(subnet))
        addresses.append(address)
    return {"type": "static", "addresses": addresses, "routes": draw(routes(subnets))}, {}, ""


def _bridge(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Configuration]:
    return optional(
        bridge=st.sampled_from(["cni0", "br-test"]),
        isGateway=flags,
        isDefaultGateway=flags,
        forceAddress=flags,
        ipMasq=flags,
        mtu=st.sampled_from([0, 1280, 1400, 1500, 9000]),
        hairpinMode=flags,
        promiscMode=flags,
        macspoofchk=flags,
        enabledad=flags,
        dns=dns,
        **more,
    ).map(lambda keys: {"type": "bridge", **keys})


_point_to_point = optional(ipMasq=flags, mtu=st.sampled_from([0, 1280, 1400]), dns=dns).map(
    lambda keys: {"type": "ptp", **keys}
)


_macvlan = optional(
    mode=st.sampled_from(["", "bridge", "private", "vepa", "hidden"]),
    mtu=st.sampled_from([0, 1400, 9001]),
    mac=macs,
).map(lambda keys: {"type": "macvlan", "master": "m0", **keys})


@st.composite
def interfaces(draw: st.DrawFn) -> Case:
    """``bridge``, ``ptp`` or ``macvlan`` (on a device m0) with addresses of ``host-local`` or ``static``."""
    plugin = draw(_bridge() | _point_to_point | _macvlan)
    ipam, runtime, args = draw(host_local() | static())
    plugin |= {"ipam": ipam, "capabilities": dict.fromkeys(runtime, True)}
    if plugin["type"] == "bridge" and draw(st.integers(0, 3)) == 0:
        plugin["args"] = {"cni": {"mac": draw(macs)}}
    if plugin["type"] == "ptp" and ipam["type"] == "static":
        ipam["dns"] = draw(dns)  # the reference's bridge drops what IPAM gives
    version = draw(st.sampled_from(["0.3.1", "0.4.0", "1.0.0", "1.0.0"]))
    return Case([plugin], runtime, args, version)


ports = st.builds(
    lambda host, container, protocol, address: {
        "hostPort": host, "containerPort": container, "protocol": protocol, **address,
    },
    st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(["tcp", "udp", "sctp"]),
    st.sampled_from([{}, {}, {"hostIP": "127.0.0.1"}, {"hostIP": "10.1.2.3"}, {"hostIP": ""}]),
)  # fmt: skip
bits = st.sampled_from([8_000, 1_000_000, 80_000_000, 5_000_000_000])
CHAINED = {
    "portmap": optional(
        snat=flags, markMasqBit=st.integers(0, 31), conditionsV4=st.just(["!", "-d", "192.0.2.0/24"])
    ),
    "firewall": optional(
        ingressPolicy=st.sampled_from(["", "open", "same-bridge"]), iptablesAdminChainName=st.just("MINE")
    ),
    "bandwidth": st.one_of(
        st.builds(lambda rate, burst: {"ingressRate": rate, "ingressBurst": burst}, bits, bits),
        st.builds(lambda rate, burst: {"egressRate": rate, "egressBurst": burst}, bits, bits),
    ),
    "tuning": optional(
        mtu=st.sampled_from([1300, 1400]),
        promisc=flags,
        mac=macs,
        sysctl=st.just({"net.ipv4.conf.eth0.arp_filter": "1"}),
        allmulti=flags,
    ),
}


@st.composite
def chains(draw: st.DrawFn) -> Case:
    """A bridge with an address, and one to three of the plugins that work on what is there."""
    subnet = draw(subnets4)
    ipam = {"type": "host-local", "dataDir": "HERE/ipam", "subnet": str(subnet)}
    chain = [{"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}]
    for kind in draw(st.lists(st.sampled_from(sorted(CHAINED)), min_size=1, max_size=3, unique=True)):
        keys = {"dataDir": "HERE/tuning"} if kind == "tuning" else {}
        chain.append({"type": kind, **keys, **draw(CHAINED[kind])})
        if kind == "portmap":
            chain[-1]["capabilities"] = {"portMappings": True}
    mappings = draw(st.lists(ports, max_size=3, unique_by=lambda item: (item["hostPort"], item["protocol"])))
    return Case(chain, {"portMappings": mappings}, "", draw(st.sampled_from(["0.4.0", "1.0.0"])))


#: Places in a configuration of ``bridge`` or ``ptp`` with ``host-local``, and what JSON may have there.
_PLACES = """
    cniVersion name ipam dns capabilities runtimeConfig args prevResult bridge isGateway
    isDefaultGateway forceAddress ipMasq mtu hairpinMode promiscMode vlan macspoofchk enabledad
    ipam.type ipam.ranges ipam.ranges.0 ipam.ranges.0.0 ipam.ranges.0.0.subnet
    ipam.ranges.0.0.rangeStart ipam.ranges.0.0.rangeEnd ipam.ranges.0.0.gateway ipam.routes
    ipam.routes.0 ipam.routes.0.dst ipam.routes.0.gw ipam.resolvConf dns.nameservers dns.domain
    dns.search dns.options args.cni args.cni.ips args.cni.mac runtimeConfig.mac runtimeConfig.ips
    runtimeConfig.ipRanges
"""
junk: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, True, 0, 1, -1, 4095, 1.5, 2**40, "", "x", "../x", "yes", "7", [], {}, [7], [None], ["x"]]
    ),
    st.sampled_from(
        [{"x": 1}, [[]], [{}], [[{}]], ["10.0.0.1"], "10.22.0.9", "10.99.0.1", "10.22.0.0/33", "fd00::1"]
    ),
    st.sampled_from(
        ["10.22.0.0/32", "10.22.0.0/31", "0.0.0.0/0", "fd00:22::/64", "\u0000", "é", "02:00:00:00:00:0g"]
    ),
)


@st.composite
def spoilt(draw: st.DrawFn) -> Case:
    """A configuration in which one value, or two, are something else."""
    ipam: Configuration = {
        "type": "host-local",
        "dataDir": "HERE/ipam",
        "ranges": [[{"subnet": "10.22.0.0/24"}]],
        "routes": [{"dst": "192.0.2.0/24"}],
    }
    plugin: Configuration = {"type": draw(st.sampled_from(["bridge", "bridge", "ptp"])), "ipam": ipam}
    for place in draw(st.lists(st.sampled_from(_PLACES.split()), min_size=1, max_size=2, unique=True)):
        _put(plugin, place.split("."), draw(junk))
    return Case([plugin], version=plugin.pop("cniVersion", "1.0.0"), network=plugin.pop("name", "net"))


def _put(value: Any, steps: list[str], junk: Any) -> None:
    """Set what stands at a place, where there is such a place."""
    step, *more = steps
    key: Any = int(step) if step.isdigit() else step
    if isinstance(value, list) and not (isinstance(key, int) and key < len(value)):
        return
    if not isinstance(value, (list, dict)):
        return
    if not more:
        value[key] = junk
    else:
        if isinstance(value, dict):
            value.setdefault(key, {})
        _put(value[key], more, junk)
