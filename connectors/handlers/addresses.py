"""Which addresses a webhook may connect to: the public ones, and those that a person named.

A name is resolved once, the address is judged, and the connection goes to that very address: a name that changes its
answer between the two cannot lead elsewhere. IPv6 addresses that carry an IPv4 address inside are never public.

Source: the IANA registries of special-purpose IPv4 and IPv6 addresses; OWASP, "Server-Side Request Forgery Prevention".
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from streamproc.reaction import GiveUp, TryLater

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[list[str]]]

_BLOCKED_4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4",
    )
)  # fmt: skip
"""This network, private, shared, loopback, link-local, documentation, benchmarks, multicast, reserved; 168.63.129.16 is
the metadata address of a cloud that lies outside all of those."""
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")
_BLOCKED_6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
"""Of the global range: protocol assignments with Teredo, documentation, 6to4."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet and carries no other one.

    >>> is_public(ipaddress.ip_address("93.184.216.34")), is_public(ipaddress.ip_address("::ffff:10.0.0.1"))
    (True, False)
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _BLOCKED_4)
    # A scope would send the same number through another interface.
    return address.scope_id is None and address in _GLOBAL_6 and not any(address in network for network in _BLOCKED_6)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the machine's resolver orders them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


async def permitted(
    host: str, port: int, *, allowed: Sequence[Network], resolver: Resolver
) -> tuple[list[Address], bool]:
    """The addresses to connect to, in their order, and whether all of them are in `allowed`.

    One address of several that is not permitted forbids them all. Raises GiveUp where one is, TryLater for a name that
    is not resolved now.
    """
    try:
        texts = await resolver(host, port)
        addresses = [ipaddress.ip_address(text) for text in texts]
    except (OSError, UnicodeError) as error:
        raise TryLater(f"the host '{host}' is not resolved: {error}") from None
    except ValueError:
        raise GiveUp(f"the host '{host}' has an address that cannot be judged") from None
    if not addresses:
        raise TryLater(f"the host '{host}' has no address")
    named = [any(address in network for network in allowed) for address in addresses]
    for address, ours in zip(addresses, named, strict=True):
        if not ours and not is_public(address):
            raise GiveUp(
                f"the host '{host}' is at {address}, which is no public address",
                hint="a network of your own is permitted by allow_networks",
            )
    return addresses, all(named)
