# SPDX-License-Identifier: Apache-2.0
"""What every entry point under ``accelerate launch`` does first and last: device, process group, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from harness.config import Precision
from harness.ranks import network
from harness.ranks.distributed import World, connect, disconnect, joining, launched_machines
from harness.ranks.precision import (
    Arithmetic,
    Choice,
    as_arithmetic,
    choose_device,
    choose_precision,
    configure_threads,
    full_fp32,
    keep_memory,
)
from harness.ranks.stopping import HEARTBEAT

MIXED = {"fp32": "no", "bf16": "no", "fp16": "fp16"}
"""The precision passed to accelerate: fp16 for its loss scaling. The model casts to bf16 itself."""
NCCL_GRACE_S = 60
TELL_OTHERS = "TORCH_NCCL_PROPAGATE_ERROR"
"""Environment variable: a rank whose collective broke lets the others know, which the heartbeat asks for."""


@dataclass(frozen=True)
class Session:
    """One rank, connected to the others."""

    accelerator: Accelerator
    world: World
    device: torch.device
    arithmetic: Arithmetic
    """What training computes in."""
    choices: dict[str, Choice]
    """Settings that were decided here, each with its reason."""


@contextmanager
def open_session(device: str, precision: Precision, timeout_s: int, threads: int | None = None) -> Iterator[Session]:
    """Join the other ranks; leave the process group at the end, where all ranks come to it.

    A rank that fails alone does not: NCCL would wait there for ranks that wait for this one. It says why it failed and
    ends (``ranks.exit``), so that its launcher ends the others.

    ``threads``: how many this process computes with on a CPU; None: see ``harness.ranks.devices``.
    """
    device_choice = choose_device(device)
    precision_choice = choose_precision(precision, device_choice.value)
    arithmetic = as_arithmetic(precision_choice)
    threads_choice = configure_threads(device_choice.value, threads)
    full_fp32()
    if device_choice.value == "cpu":
        keep_memory()
    several = launched_machines() > 1
    if several:
        route = network.name_interface(os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0")))
    # NCCL aborts the process when its own limit is over; the heartbeat reports before that.
    grace_s = NCCL_GRACE_S if device_choice.value == "cuda" else 0
    os.environ.setdefault(TELL_OTHERS, "1")
    with joining(timeout_s):
        accelerator = Accelerator(
            cpu=device_choice.value == "cpu",
            mixed_precision=MIXED[arithmetic],
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s + grace_s))],
        )
        world = connect(timeout_s)
    place = with_index(accelerator.device)
    if world.world_size > 1:
        HEARTBEAT.start(timeout_s)
    choices = {
        "device": device_choice,
        "precision": precision_choice,
        "processes": Choice(str(world.world_size), "as launched"),
        "threads": threads_choice,
        **({"network": Choice(str(route), "the way to the other machines")} if several else {}),
    }
    try:
        yield Session(accelerator, world, place, arithmetic, choices)
    except BaseException as error:
        if world.world_size == 1 or getattr(error, "agreed", False):
            disconnect()
        raise
    disconnect()


def with_index(device: torch.device) -> torch.device:
    """The device with its number. Accelerate gives a single process ``cuda``, which ``set_device`` refuses."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
