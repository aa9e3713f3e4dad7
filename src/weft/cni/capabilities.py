"""What a runtime hands to plugins that declare a capability (conventions, "Well-known Capabilities").

A runtime fills ``CapabilityArgs`` and gives ``to_dict()`` to ``Attachment``; a plugin reads its ``runtimeConfig``
by ``PluginConfiguration.runtime``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

from weft.cni.errors import CniError, ErrorCode

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
#: Bits, or bits per second.
Bits = Annotated[int, msgspec.Meta(ge=0)]
#: The capability by which containerd (1.5) and CRI-O (1.28) send a Kubernetes pod's annotations.
POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"


class _Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Names in camelCase; what was not given is left out."""


class PortMapping(_Shape, frozen=True, kw_only=True):
    """A container's port on the host. ``protocol`` is tcp, udp or sctp; without ``host_ip`` on all addresses."""

    host_port: Port
    container_port: Port
    protocol: str
    host_ip: str = msgspec.field(default="", name="hostIP")


class IPRange(_Shape, frozen=True, kw_only=True):
    """A subnet to take an address from; the ends are inclusive."""

    subnet: str
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class Bandwidth(_Shape, frozen=True, kw_only=True):
    """Limits: rates in bits per second, bursts in bits; ingress is what the container receives."""

    ingress_rate: Bits = 0
    ingress_burst: Bits = 0
    egress_rate: Bits = 0
    egress_burst: Bits = 0


class RuntimeDns(_Shape, frozen=True, kw_only=True):
    """What the runtime puts into the container's resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class CapabilityArgs(_Shape, frozen=True, kw_only=True):
    """Arguments by capability; one that is not given is not sent.

    ``ip_ranges`` has a list of ranges per address that is wanted; ``ips`` are addresses with or without prefix.
    ``pod_annotations`` is none of the conventions', and None where the runtime says nothing of them.
    """

    port_mappings: tuple[PortMapping, ...] = ()
    ip_ranges: tuple[tuple[IPRange, ...], ...] = ()
    bandwidth: Bandwidth | None = None
    dns: RuntimeDns | None = None
    ips: tuple[str, ...] = ()
    mac: str = ""
    infiniband_guid: str = msgspec.field(default="", name="infinibandGUID")
    device_id: str = msgspec.field(default="", name="deviceID")
    aliases: tuple[str, ...] = ()
    cgroup_path: str = ""
    pod_annotations: dict[str, str] | None = msgspec.field(default=None, name="io.kubernetes.cri.pod-annotations")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Read what a runtime sent; capabilities beyond those here are passed over.

        Raises CniError 7, naming the place.
        """
        try:
            return msgspec.convert({key: value for key, value in raw.items() if value is not None}, cls)
        except msgspec.ValidationError as error:
            raise CniError(ErrorCode.INVALID_CONFIG, f"capability arguments: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The arguments as JSON's values, for ``Attachment.capability_args``."""
        sent: dict[str, Any] = msgspec.to_builtins(self)
        return sent
