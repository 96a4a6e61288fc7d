"""Which addresses only this machine can reach."""

import ipaddress
import socket
from functools import lru_cache


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a socket bound to `host` is reached from this machine alone.

    True for a loopback address, and for `localhost` as long as it resolves to nothing else. Any other name is not
    looked up, because what it resolves to may change between the question and the binding.
    """
    if host.lower() == "localhost":
        return _resolves_to_loopback(host)
    return _is_loopback_address(host)


def is_beyond_loopback(address: str) -> bool:
    """Whether `address` is an IP address that is not this machine's loopback; a name is neither."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return not is_loopback(address)


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _resolves_to_loopback(name: str) -> bool:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(_is_loopback_address(str(entry[4][0])) for entry in found)
