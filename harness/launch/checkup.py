# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` does on every rank: join the other ranks, make the checks of a training, try an all-reduce.

Each check gives a state and a message: ``ok``, ``warn`` (it would run, but not well) or ``fix`` (it would fail, or not
do what was asked).
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from harness.config import NOTHING, RunConfig
from harness.ranks import devices
from harness.ranks.distributed import launched_local_rank, launched_local_world_size, launched_machines
from harness.ranks.session import Session, open_session
from harness.rundir.layout import existing
from harness.training import preflight
from harness.training.assembly import agree, check_shared
from harness.training.writer import RunWriter
from preprocessing.base.errors import UserError
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import counted, size

State = Literal["ok", "warn", "fix"]
Checked = tuple[State, str]
SUM_NUMBERS = 2_500_000
"""Numbers that the all-reduce sums: as many as the gradients of a small model."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    state: State
    message: str
    host: str = ""
    """The machine that it concerns; empty for all machines, or if there is only one."""


def examine(config: RunConfig) -> list[Finding] | None:
    """Join the other ranks and make all checks; the findings on rank 0, None elsewhere."""
    started = time.perf_counter()
    try:
        with open_session(config.device, config.precision, config.timeout_s) as session:
            met_s = time.perf_counter() - started
            findings = [judged("all-reduce", partial(look_at_network, session, met_s))]
            if config.data != NOTHING:
                findings.append(judged("training", partial(look_at_training, config, session)))
            for theirs in session.world.gather_objects(look_here(config, session), "the findings"):
                findings += [one for one in theirs if one not in findings]  # ranks of a machine see the same
            return findings if session.world.is_main else None
    except UserError as refusal:
        return [Finding("ranks", "fix", str(refusal), platform.node())]


def judged(name: str, check: Callable[[], Checked], host: str = "") -> Finding:
    """The result of a check; an error that it raises becomes ``fix``."""
    try:
        state, message = check()
    except (UserError, RuntimeError) as error:  # torch's of a device that fails
        state, message = "fix", " ".join(str(error).split())
    return Finding(name, state, message, host)


def look_here(config: RunConfig, session: Session) -> list[Finding]:
    """What is found on this rank; the first of a machine also looks at its GPUs."""
    host = platform.node() if launched_machines() > 1 else ""
    found = [
        Finding(name, "ok", str(session.choices[name]), host)
        for name in ("precision", "network")
        if name in session.choices
    ]
    if launched_local_rank() == 0:
        found.append(judged("gpus", partial(look_at_gpus, config, session), host))
    return found


def look_at_network(session: Session, met_s: float) -> Checked:
    """How long the ranks took to join, and the result of one all-reduce on the path that gradients take."""
    world, numbers = session.world, torch.ones(SUM_NUMBERS, device=session.device)
    if world.world_size == 1:
        return "ok", "one process, so no network is needed; --num_processes 2 starts two and tries it"
    world.sum_on_device(numbers, "one sum over all ranks")  # it also opens the connections
    begun = time.perf_counter()
    world.sum_on_device(numbers, "one sum over all ranks")
    with world.waiting("one sum over all ranks"):  # here under NCCL
        right = bool((numbers == world.world_size**2).all())
    took = f"{size(4 * SUM_NUMBERS)} in {1000 * (time.perf_counter() - begun):.1f} ms"
    shown = (
        f"{world.world_size} ranks on {counted(launched_machines(), 'machine')} met in {met_s:.2f} s and added {took}"
    )
    return ("ok", shown) if right else ("fix", f"{shown}; the sum is wrong: check the network and the GPUs")


def look_at_training(config: RunConfig, session: Session) -> Checked:
    """The checks of a training on all ranks: dataset, run directory, and whether all were started alike."""
    config = replace(config, dry_run=True, quiet=True)
    if preflight.pretraining(config) is not None:  # that language model is trained first
        config = replace(config, init=replace(config.init, pretrain=None))
    with RunWriter(config, active=False) as writer:
        manifest, _ = agree(config, session, writer)
    check_shared(session.world.from_main(str(existing(config.run)), "the run directory"), session.world)
    return "ok", f"{config.data}: {manifest.rows(TRAIN):,} training rows"


def look_at_gpus(config: RunConfig, session: Session) -> Checked:
    """The devices, and whether all are used."""
    cuda, used = devices.look(), launched_local_world_size()
    if session.device.type == "cpu":
        unused = (cuda.found or cuda.driver) and config.device == "auto"
        return "warn" if unused else "ok", f"none are used: {session.choices['device'].reason} ({cuda})"
    shown = []
    for place in range(cuda.found):
        free, total = map(size, torch.cuda.mem_get_info(place))
        shown.append(f"{torch.cuda.get_device_name(place)} ({free} of {total} free)")
    if used < cuda.found:
        return "warn", f"{', '.join(shown)}: {used} of {cuda.found} used; pass --num_processes to use all"
    return "ok", ", ".join(shown)
