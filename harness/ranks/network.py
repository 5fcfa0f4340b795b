# SPDX-License-Identifier: Apache-2.0
"""The network interface that leads to the other machines, found by asking the kernel for the route to the main one.

Gloo offers the address that the machine's own name resolves to. On many systems that is 127.0.1.1, which no other
machine can reach, and gloo fails only after its time limit. So the interface is set before any rank starts, unless the
user has set one. NCCL looks at the interfaces itself, InfiniBand first: the main address may belong to a slow network
for administration.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from preprocessing.base.errors import ConfigError

GLOO = "GLOO_SOCKET_IFNAME"
LOOPBACK = ("127.", "::1", "localhost")
"""Prefixes of addresses that no other machine can reach."""
ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737): the default route leads to it."""


@dataclass(frozen=True)
class Route:
    """How this machine reaches the others."""

    interface: str
    address: str
    """This machine's own address on that interface."""

    def __str__(self) -> str:
        """``eth0 (10.0.0.2)``."""
        return f"{self.interface} ({self.address})"


def local_addresses(host: str, port: int) -> list[str]:
    """This machine's addresses on the routes to ``host``, then on that to any other machine; no packet is sent."""
    found = []
    for name in (host, ELSEWHERE):
        with contextlib.suppress(OSError):
            for family, kind, protocol, _, target in socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM):
                with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                    probe.connect(target)
                    found.append(str(probe.getsockname()[0]))
    return found


def interfaces() -> dict[str, list[str]]:
    """Network interfaces that are up, with their addresses."""
    import psutil

    addresses, wanted = psutil.net_if_addrs(), (socket.AF_INET, socket.AF_INET6)
    return {
        name: [one.address.partition("%")[0] for one in addresses.get(name, ()) if one.family in wanted]
        for name, facts in psutil.net_if_stats().items()
        if facts.isup
    }


def choose(host: str, local: list[str], found: dict[str, list[str]], users: str | None = None) -> Route | None:
    """The interface to the others; None if it is not certain. A pure function.

    ``host``: the main machine's address as it was given; ``local``: as ``local_addresses`` gives them; ``found``:
    interfaces with their addresses; ``users``: the one that the user set. On the main machine ``host`` may be a
    loopback address; then the interface is that of the default route, or the only one.
    """
    routes = [Route(name, address) for name, addresses in found.items() for address in addresses]
    if users:
        return next((route for route in routes if route.interface == users), None)
    outward = [route for route in routes if not route.address.startswith(LOOPBACK)]
    for address in local:
        for route in routes if host.startswith(LOOPBACK) or not outward else outward:  # all machines may be this one
            if route.address == address:
                return route
    return outward[0] if len({route.interface for route in outward}) == 1 else None


def name_interface(host: str | None = None, port: int | None = None) -> Route:
    """Find the interface to the other machines and set it for gloo, in this process and its children; the user's own
    setting stays.

    ``host`` and ``port``: the main machine's; by default as the launcher told this rank. Raises ``ConfigError`` if it
    is not certain, or if the user's interface does not exist.
    """
    host, port = host or os.environ.get("MASTER_ADDR", ""), port or int(os.environ.get("MASTER_PORT", "0"))
    users = os.environ.get(GLOO)
    route = choose(host, local_addresses(host, port), interfaces(), users)
    if route is None:
        wrong = f"{users}: no such interface with an address is up here" if users else f"unclear which leads to {host}"
        raise ConfigError(f"network interface: {wrong}; name it, as in export {GLOO}=eth0 (ip address lists them)")
    os.environ[GLOO] = route.interface
    return route
