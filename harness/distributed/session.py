# SPDX-License-Identifier: Apache-2.0
"""What every entry point under ``accelerate launch`` does first and last: device, process group, precision.

Gloo offers the address that the machine's own name resolves to. On many systems that is 127.0.1.1, which no other
machine can reach, and gloo fails only after its time limit. So the network interface that leads to the main machine is
set here (``name_interface``), unless the user has set one. NCCL looks at the interfaces itself, InfiniBand first: the
main address may belong to a slow network for administration.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from harness.config import Choice, Precision
from harness.distributed.precision import (
    choose_device,
    choose_precision,
    configure_cuda,
    configure_threads,
    keep_memory,
    set_tf32,
    takes_tf32,
)
from harness.distributed.stopping import HEARTBEAT
from harness.distributed.world import (
    GLOO,
    World,
    connect,
    count_machines,
    disconnect,
    joining,
    read_world_size,
)
from padless.core.errors import ConfigError

NCCL_GRACE_S = 60
LOOPBACK = ("127.", "::1", "localhost")
"""Prefixes of addresses that no other machine can reach."""
ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737): the default route leads to it."""


@dataclass(frozen=True)
class Session:
    """One rank, connected to the others."""

    accelerator: Accelerator
    world: World
    device: torch.device
    arithmetic: str
    """What training computes in."""
    choices: dict[str, Choice]
    """Settings that were decided here, each with its reason."""


@contextmanager
def open_session(
    device: str, precision: Precision, timeout_s: int, threads: int | None = None, *, chosen: str | None = None
) -> Iterator[Session]:
    """Join the other ranks; leave the process group if all ranks reach the end.

    A rank that fails alone does not leave it: NCCL would wait for ranks that wait for this one. It reports the error
    and exits (``ranks.stopping``), so that its launcher ends the others.

    ``threads``: how many this process computes with on a CPU; None: see ``configure_threads``. ``chosen``: why padless
    chose this number of processes, each with one thread on a CPU.
    """
    choices = {"device": choose_device(device)}
    kind = choices["device"].value
    if kind == "cuda":
        configure_cuda()
    choices["precision"] = choose_precision(precision, kind)
    arithmetic = choices["precision"].value
    choices["processes"] = Choice(str(read_world_size()), chosen or "as launched")
    choices["threads"] = configure_threads(kind, threads, has_one=chosen is not None)
    set_tf32(takes_tf32(arithmetic, kind))
    keep_memory()
    if count_machines() > 1:
        choices["network"] = Choice(name_interface(), "the route to the other machines")
    # NCCL aborts the process when its own limit is over; the heartbeat reports before that.
    limit = timedelta(seconds=timeout_s + (NCCL_GRACE_S if kind == "cuda" else 0))
    with joining(timeout_s):
        group = InitProcessGroupKwargs(timeout=limit)
        mixed = "fp16" if arithmetic == "fp16" else "no"  # for its loss scaling; the model casts to bf16 itself
        accelerator = Accelerator(cpu=kind == "cpu", mixed_precision=mixed, kwargs_handlers=[group])
        world = connect(timeout_s)
    rank_device = accelerator.device
    if rank_device.type == "cuda" and rank_device.index is None:  # of a single process; set_device refuses it
        rank_device = torch.device("cuda", torch.cuda.current_device())
    if world.world_size > 1:
        HEARTBEAT.start(timeout_s)
    try:
        yield Session(accelerator, world, rank_device, arithmetic, choices)
    except BaseException as error:
        if world.world_size == 1 or getattr(error, "agreed", False):
            disconnect()
        raise
    disconnect()


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
    """Find the interface to the other machines and set it for gloo; returns it with its address, as in ``eth0
    (10.0.0.2)``. The launcher has set address and port of the main machine.

    Raises ``ConfigError`` if no interface has the address of the route.
    """
    if GLOO in os.environ:
        return os.environ[GLOO]
    host = os.environ.get("MASTER_ADDR", "")
    address = find_address(host, int(os.environ.get("MASTER_PORT", "0")))
    for name, entries in psutil.net_if_addrs().items():
        if address in [entry.address.partition("%")[0] for entry in entries]:
            os.environ[GLOO] = name
            return f"{name} ({address})"
    problem = f"unclear which leads to {host}; name it, as in export {GLOO}=eth0 (ip address lists them)"
    raise ConfigError(f"network interface: {problem}")
