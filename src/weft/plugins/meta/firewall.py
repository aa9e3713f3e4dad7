"""``firewall``: lets the container's packets through the host's firewall, by iptables or by firewalld.

Keys: ``backend``, ``iptablesAdminChainName``, ``firewalldZone``, ``ingressPolicy``; see docs/plugins/firewall.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from weft.cni import CniError, ErrorCode, Result
from weft.cni.results import IPInterface
from weft.kernel import iptables
from weft.kernel.iptables import IptablesError
from weft.plugins.meta import firewall_iptables, firewalld
from weft.plugins.meta.firewall_iptables import Isolation
from weft.plugins.meta.firewalld import FirewalldError
from weft.plugins.pairs import check_name
from weft.plugins.plugin import PluginRequest
from weft.plugins.settings import Settings, invalid, read, refused
from weft.plugins.undo import Undo

BACKENDS = ("iptables", "firewalld")
POLICIES = ("open", "same-bridge", "isolated")
DEFAULT_ADMIN_CHAIN = "CNI-ADMIN"
DEFAULT_ZONE = "trusted"


class FirewallSettings(Settings, frozen=True, kw_only=True):
    """The plugin's keys. Empty is as good as absent."""

    backend: str = ""
    iptables_admin_chain_name: str = ""
    firewalld_zone: str = ""
    ingress_policy: str = ""

    @property
    def admin_chain(self) -> str:
        """The chain with the rules of the host's administrator, which come first."""
        return self.iptables_admin_chain_name or DEFAULT_ADMIN_CHAIN

    @property
    def zone(self) -> str:
        """The zone of firewalld."""
        return self.firewalld_zone or DEFAULT_ZONE

    def by_firewalld(self) -> bool:
        """Whether firewalld is to let packets through: where it is named, or none is and it runs."""
        return self.backend == "firewalld" or (not self.backend and firewalld.running())


class Firewall:
    """``weft.plugins.Plugin`` for ``firewall``."""

    def add(self, request: PluginRequest) -> Result:
        """Accept what the container sends, and the answers to it; the previous result."""
        settings = parse(request)
        previous = request.previous_result
        isolation = _isolation(settings, previous)
        by_firewalld = settings.by_firewalld()
        with _explained(), Undo() as undo:
            if by_firewalld:
                addresses = _addresses(previous)
                undo.on_failure(firewalld.close, settings.zone, addresses)
                firewalld.open_for(settings.zone, addresses)
            for version, addresses in _by_version(previous):
                opened = [] if by_firewalld else addresses
                undo.on_failure(firewall_iptables.close, version, opened)
                firewall_iptables.open_for(version, opened, settings.admin_chain, isolation)
        return previous

    def delete(self, request: PluginRequest) -> None:
        """Accept it no longer. What isolates a bridge stays: other containers are on it."""
        settings = parse(request)
        previous = request.configuration.previous_result
        if previous is None:
            return  # the rules name addresses only
        with _explained():
            if settings.by_firewalld():
                firewalld.close(settings.zone, _addresses(previous))
            else:
                for version, addresses in _by_version(previous):
                    firewall_iptables.close(version, addresses)

    def check(self, request: PluginRequest) -> None:
        """The rules are there."""
        settings = parse(request)
        previous = request.previous_result
        isolation = _isolation(settings, previous)
        by_firewalld = settings.by_firewalld()
        with _explained():
            if by_firewalld:
                firewalld.check(settings.zone, _addresses(previous))
            for version, addresses in _by_version(previous):
                opened = [] if by_firewalld else addresses
                firewall_iptables.check(version, opened, settings.admin_chain, isolation)

    def gc(self, request: PluginRequest) -> None:
        """Nothing: the rules name addresses, the valid attachments do not."""
        parse(request)

    def status(self, request: PluginRequest) -> None:
        """Whether the backend works on this host."""
        settings = parse(request)
        if settings.by_firewalld():
            if not firewalld.running():
                raise CniError(ErrorCode.NOT_AVAILABLE, "firewall: firewalld is not running")
            return
        try:
            firewall_iptables.probe()
        except IptablesError as error:
            raise CniError(ErrorCode.NOT_AVAILABLE, f"firewall: {error}") from None


def parse(request: PluginRequest) -> FirewallSettings:
    """Read and check a configuration. Raises CniError."""
    settings = read(FirewallSettings, request.configuration)
    if settings.backend and settings.backend not in BACKENDS:
        raise invalid("backend", settings.backend, f"give {' or '.join(BACKENDS)}, or leave it out")
    if settings.ingress_policy and settings.ingress_policy not in POLICIES:
        raise invalid("ingressPolicy", settings.ingress_policy, f"give {', '.join(POLICIES)}")
    if not iptables.CHAIN_NAME.fullmatch(settings.admin_chain):
        raise invalid("iptablesAdminChainName", settings.admin_chain, "give at most 28 characters, without spaces")
    return settings


def _isolation(settings: FirewallSettings, previous: Result) -> Isolation | None:
    """The bridge to isolate: the first interface, where ``bridge`` has it. Raises CniError where there is none."""
    if settings.ingress_policy in ("", "open"):
        return None
    name = previous.interfaces[0].name if previous.interfaces else ""
    if not name:
        raise refused(
            f"ingressPolicy {settings.ingress_policy}: prevResult names no bridge; list firewall behind bridge"
        )
    check_name("prevResult.interfaces[0].name", name)
    return Isolation(name, ports=settings.ingress_policy == "isolated")


def _addresses(previous: Result) -> list[IPInterface]:
    return [item.address for item in previous.ips]


def _by_version(previous: Result) -> Iterator[tuple[int, list[IPInterface]]]:
    for version in (4, 6):
        if own := [address for address in _addresses(previous) if address.version == version]:
            yield version, own


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (IptablesError, FirewalldError) as error:
        raise refused(f"firewall: {error}") from None
