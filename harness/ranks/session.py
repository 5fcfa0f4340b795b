# SPDX-License-Identifier: Apache-2.0
"""What every entry point under ``accelerate launch`` does first and last: device, process group, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState, is_initialized
from accelerate.utils import InitProcessGroupKwargs

from harness.config import Choice, Precision
from harness.ranks import network
from harness.ranks.devices import CHOSEN
from harness.ranks.distributed import (
    World,
    connect,
    count_machines,
    count_restarts,
    disconnect,
    join_restarted,
    joining,
    read_world_size,
)
from harness.ranks.precision import (
    MALLOC_DEFAULTS,
    choose_device,
    choose_precision,
    configure_threads,
    expand_segments,
    keep_memory,
    set_tf32,
)
from harness.ranks.stopping import HEARTBEAT

NCCL_GRACE_S = 60


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
def restore_process() -> Iterator[None]:
    """After the block this process has the threads, random numbers, environment, memory and accelerate's state from
    before: a training in a user's own process leaves nothing.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices), ExitStack() as stack:
        stack.callback(keep_memory, *MALLOC_DEFAULTS)
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        for owner in (torch.backends.cuda.matmul, torch.backends.cudnn):
            stack.callback(setattr, owner, "allow_tf32", owner.allow_tf32)
        stack.callback(os.environ.update, dict(os.environ))
        stack.callback(os.environ.clear)
        stack.enter_context(restore_accelerate())
        yield


@contextmanager
def restore_accelerate() -> Iterator[None]:
    """In the block accelerate is as after its import; then its states are those from before."""
    users = shared_attributes()
    users_values = [dict(attributes) for attributes in users]
    for attributes in users:
        attributes.clear()
    try:
        yield
    finally:
        for attributes in shared_attributes():
            attributes.clear()
        for attributes, values in zip(users, users_values, strict=True):
            attributes.update(values)


def shared_attributes() -> list[dict[str, object]]:
    """The attributes of accelerate's states, which all instances of a state share; none before an ``Accelerator``."""
    if not is_initialized():
        return []
    return [vars(state()) for state in (PartialState, AcceleratorState, GradientState)]


@contextmanager
def open_session(device: str, precision: Precision, timeout_s: int, threads: int | None = None) -> Iterator[Session]:
    """Join the other ranks; leave the process group if all ranks reach the end.

    A rank that fails alone does not leave it: NCCL would wait for ranks that wait for this one. It reports the error
    and exits (``ranks.stopping``), so that its launcher ends the others.

    ``threads``: how many this process computes with on a CPU; None: see ``configure_threads``.
    """
    choices = {"device": choose_device(device)}
    kind = choices["device"].value
    if kind == "cuda":
        expand_segments()
    choices["precision"] = choose_precision(precision, kind)
    arithmetic = choices["precision"].value
    choices["processes"] = Choice(str(read_world_size()), os.environ.get(CHOSEN, "as launched"))
    choices["threads"] = configure_threads(kind, threads)
    set_tf32(arithmetic == "tf32")
    if kind == "cpu":
        keep_memory()
    if count_machines() > 1:
        choices["network"] = Choice(network.name_interface(), "the route to the other machines")
    # NCCL aborts the process when its own limit is over; the heartbeat reports before that.
    limit = timedelta(seconds=timeout_s + (NCCL_GRACE_S if kind == "cuda" else 0))
    with joining(timeout_s):
        if count_restarts():
            join_restarted("nccl" if kind == "cuda" else "gloo", limit)
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
