# SPDX-License-Identifier: Apache-2.0
"""Choice of the interface to the other machines, from the kernel, the interfaces and the user."""

from __future__ import annotations

import os

import pytest

from harness.ranks import network
from harness.ranks.network import GLOO, NCCL, Route

FOUND = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.168.1.5"], "eth1": ["10.0.0.5", "fe80::1"]}


@pytest.fixture(autouse=True)
def nobody_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GLOO, NCCL):
        monkeypatch.setenv(name, "to be removed in the end")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("host", "local", "found", "route"),
    [
        ("10.0.0.1", ["10.0.0.5", "192.168.1.5"], FOUND, Route("eth1", "10.0.0.5")),
        ("node-1", ["127.0.1.1", "192.168.1.5"], FOUND, Route("eth0", "192.168.1.5")),
        ("node-1", [], {"lo": ["127.0.0.1"], "ib0": ["10.9.0.1"]}, Route("ib0", "10.9.0.1")),
        ("node-1", [], FOUND, None),
        ("localhost", ["::1", "192.168.1.5"], FOUND, Route("lo", "::1")),
    ],
)
def test_the_interface_of_the_route(
    host: str, local: list[str], found: dict[str, list[str]], route: Route | None
) -> None:
    assert network.choose(host, local, found) == route


def test_the_users_interface_stays() -> None:
    assert str(network.choose("10.0.0.1", ["10.0.0.5"], FOUND, "eth0")) == "eth0 (192.168.1.5)"


@pytest.mark.parametrize(
    ("found", "interface", "told"),
    [
        (FOUND, "eth0", None),
        ({"lo": ["127.0.0.1"], "eth0": []}, "lo", "=lo"),
        ({"lo": ["127.0.0.1"], "lowlands": ["10.0.0.5"], "virbr0": ["192.168.122.1"]}, "lowlands", "=lowlands"),
    ],
)
def test_nccl_chooses_for_itself_unless_it_would_take_the_loopback(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, list[str]], interface: str, told: str | None
) -> None:
    monkeypatch.setattr(network, "interfaces", lambda: found)
    monkeypatch.setenv(GLOO, interface)
    assert network.name_interface("node-1", 0) == Route(interface, found[interface][0])
    assert (os.environ[GLOO], os.environ.get(NCCL)) == (interface, told)
