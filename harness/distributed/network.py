# SPDX-License-Identifier: Apache-2.0
"""The network interface that leads to the other machines, found by asking the kernel for the route to the main one.

Gloo offers the address that the machine's own name resolves to. On many systems that is 127.0.1.1, which no other
machine can reach, and gloo fails only after its time limit. So the interface is set before any rank starts, unless the
user has set one. NCCL looks at the interfaces itself, InfiniBand first: the main address may belong to a slow network
for administration.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from padless.core.errors import ConfigError

GLOO = "GLOO_SOCKET_IFNAME"
LOOPBACK = ("127.", "::1", "localhost")
"""Prefixes of addresses that no other machine can reach."""
ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737): the default route leads to it."""


def find_address(host: str, port: int) -> str | None:
    """This machine's address on the route to ``host``; no packet is sent.

    The main machine's own name may be a loopback address there; then it is that of the default route.
    """
    for name in (host, ELSEWHERE):
        with suppress(OSError):
            for family, kind, protocol, _, target in socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM):
                with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                    probe.connect(target)
                    address = str(probe.getsockname()[0])
                    if host.startswith(LOOPBACK) or not address.startswith(LOOPBACK):
                        return address
    return None


def name_interface() -> str:
    """Find the interface to the other machines and set it for gloo, in this process and its children; the user's own
    setting stays. Returns it with its address, as in ``eth0 (10.0.0.2)``.

    The launcher has set address and port of the main machine. Raises ``ConfigError`` if no interface has the address of
    the route, or if the user's interface does not exist.
    """
    import psutil

    host, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    interface = os.environ.get(GLOO)
    interface_by_address: dict[str, str] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                interface_by_address[entry.address.partition("%")[0]] = name
    if interface:
        problem = f"{interface}: no such interface with an address is here"
        address = next((address for address, name in interface_by_address.items() if name == interface), None)
    else:
        problem, address = f"unclear which leads to {host}", find_address(host, port)
    if address is None or address not in interface_by_address:
        raise ConfigError(f"network interface: {problem}; name it, as in export {GLOO}=eth0 (ip address lists them)")
    os.environ[GLOO] = interface_by_address[address]
    return f"{interface_by_address[address]} ({address})"
