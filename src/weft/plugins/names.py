"""Names that the reference plugins derive, by which they and ours find each other's rules and devices."""

import hashlib
import re
import secrets

_LONGEST_CHAIN = 28
_COMMENT = re.compile(r'name: \\"(?P<network>[^"\\]*)\\" id: \\"(?P<container>[^"\\]*)\\"')


def hashed(length: int, prefix: str, text: str) -> str:
    """A name of ``length`` characters: the prefix, then hex digits of the text's SHA-512."""
    return (prefix + hashlib.sha512(text.encode()).hexdigest())[:length]


def chain(network: str, container_id: str, prefix: str = "") -> str:
    """The iptables chain of one container in one network."""
    return hashed(_LONGEST_CHAIN, f"CNI-{prefix}", network + container_id)


def comment(network: str, container_id: str) -> str:
    """What rules of one container in one network carry."""
    return f'name: "{network}" id: "{container_id}"'


def commented(rule: str) -> tuple[str, str] | None:
    """Network and container of a rule as iptables-save writes it; None for a rule that is no container's."""
    found = _COMMENT.search(rule)
    return (found["network"], found["container"]) if found else None


def host_interface() -> str:
    """A new name for the host's end of a pair."""
    return f"veth{secrets.token_hex(4)}"
