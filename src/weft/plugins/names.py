"""Names that the reference plugins derive, by which they and ours find each other's rules and devices."""

import hashlib
import secrets

_LONGEST_CHAIN = 28


def hashed(length: int, prefix: str, text: str) -> str:
    """A name of ``length`` characters: the prefix, then hex digits of the text's SHA-512."""
    return (prefix + hashlib.sha512(text.encode()).hexdigest())[:length]


def chain(network: str, container_id: str, prefix: str = "") -> str:
    """The iptables chain of one container in one network."""
    return hashed(_LONGEST_CHAIN, f"CNI-{prefix}", network + container_id)


def comment(network: str, container_id: str) -> str:
    """What rules of one container in one network carry."""
    return f'name: "{network}" id: "{container_id}"'


def host_interface() -> str:
    """A new name for the host's end of a pair."""
    return f"veth{secrets.token_hex(4)}"
