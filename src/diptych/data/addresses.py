"""Addresses: what is a URL, and which ones may be reached (those of the public internet by default)."""

import ipaddress
import re
import socket
from pathlib import Path
from typing import Any

PRIVATE = "is a private or local address"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv6 addresses that a gateway turns into the IPv4 address in their last four bytes (RFC 6052)."""


def as_url(path: str | Path) -> str | None:
    """Return `path` as a URL, or None if it is a path on this machine.

    A `Path` that was made from a URL has lost a slash; it is put back.
    """
    text = str(path)
    found = re.match(r"([a-z][a-z0-9+.-]+):(/{1,3})(?=[^/])", text)
    if found is None or (len(found.group(2)) == 1 and isinstance(path, str)):
        return None
    slashes = "///" if found.group(1) == "file" and len(found.group(2)) != 2 else "//"
    return f"{found.group(1)}:{slashes}{text[found.end() :]}".rstrip("/")


class PrivateAddressError(OSError):
    """A name was resolved to an address that is not one of the public internet."""


def refuse_private(host: str) -> None:
    """Raise a `PrivateAddressError` for an IP address that is not one of the public internet.

    IPv4 addresses inside IPv6 ones (mapped, 6to4, Teredo, NAT64) are looked at too.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if not all(found.is_global and not found.is_multicast for found in _reached(address)):
        raise PrivateAddressError(f"{host} {PRIVATE}")


def _reached(address: Address) -> list[Address]:
    """Return the addresses that a packet to this one may reach."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    inner: list[Address] = [found for found in (address.sixtofour, *(address.teredo or ())) if found]
    if address in _TRANSLATED:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return inner or [address]


def public_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address that a name was resolved to, just before it is connected.

    Names may be resolved to another address each time they are asked for, so only the address that is
    connected to counts.

    Raises:
        PrivateAddressError: it is not one of the public internet.
    """
    family, kind, protocol, _, target = address
    refuse_private(str(target[0]))
    return socket.socket(family, kind, protocol)
