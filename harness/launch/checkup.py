# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` does on every rank: check machine, data and run directory, join the other ranks, try an all-reduce.

Each check gives a state and a message: ``ok``, ``warn`` (it would run, but not well) or ``fix`` (it would fail, or not
do what was asked). Data and run directory are checked by the training's own preflight.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from harness.config import NOTHING, RunConfig
from harness.model.recurrent import VariableLengthLSTM, try_recurrence
from harness.model.registry import parameters_of
from harness.ranks import devices, network, precision
from harness.ranks.distributed import (
    World,
    launched_local_rank,
    launched_local_world_size,
    launched_machines,
    launched_world_size,
)
from harness.ranks.session import Session, open_session
from harness.rundir.layout import existing
from harness.rundir.records import installed_version
from harness.training import preflight
from harness.training.assembly import check_shared
from preprocessing.base.errors import UserError
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import counted, size
from preprocessing.dataset.views import read_data

State = Literal["ok", "warn", "fix"]
Checked = tuple[State, str]
SUM_NUMBERS = 2_500_000
"""Numbers that the all-reduce sums: as many as the gradients of a small model."""
DATASET = "the dataset's fingerprint"
CHOSEN = ("device", "precision", DATASET)
"""Facts that are no versions; empty where this rank cannot use them."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    state: State
    message: str
    host: str = ""
    """The machine that it concerns; empty for all machines, or if there is only one."""


def examine(config: RunConfig) -> list[Finding] | None:
    """Check this rank, join the others and try the network; the findings on rank 0, None elsewhere."""
    facts, seen = look(config)
    started = time.perf_counter()
    try:
        with open_session(config.device if facts["device"] else "cpu", "fp32", config.timeout_s) as session:
            kinds = set(session.world.gather_objects(facts["device"], "what each rank saw"))
            met_s = time.perf_counter() - started
            findings = [compare(session.world, facts), *try_network(session, kinds, met_s)]
            if config.run != NOTHING:
                folder = session.world.from_main(str(existing(config.run)), "the run directory")
                try:
                    check_shared(folder, session.world)
                except UserError as error:
                    findings.append(Finding("run", "fix", str(error)))
            for theirs in session.world.gather_objects(seen, "the findings"):
                findings += [one for one in theirs if one not in findings]  # ranks of a machine see the same
            return findings if session.world.is_main else None
    except UserError as refusal:
        return [*seen, Finding("rendezvous", "fix", str(refusal), platform.node())]


def look(config: RunConfig) -> tuple[dict[str, str], list[Finding]]:
    """What this rank finds before it joins the others: facts that must be equal on all ranks, and findings.

    The first rank of a machine also checks the devices and the run directory.
    """
    facts = versions() | dict.fromkeys(CHOSEN, "")
    checks: dict[str, Callable[[], Checked]] = {"precision": partial(look_at_precision, config, facts)}
    if config.data != NOTHING:
        checks["data"] = partial(look_at_data, config, facts)
    if launched_local_rank() == 0:
        if config.run != NOTHING:
            checks["run"] = partial(look_at_run, config)
        checks["gpus"] = partial(look_at_gpus, config)
        if launched_world_size() > launched_local_world_size():
            # else gloo would offer the address of the machine's own name
            checks["interface"] = lambda: ("ok", f"{network.name_interface()} leads to the other machines")
    host = platform.node() if launched_machines() > 1 else ""
    return facts, [Finding(name, *judged(check), host) for name, check in checks.items()]


def judged(check: Callable[[], Checked]) -> Checked:
    """The result of a check; an error that it raises becomes ``fix``."""
    try:
        return check()
    except (UserError, RuntimeError) as error:  # torch's of a device that fails
        return "fix", " ".join(str(error).split())


def versions() -> dict[str, str]:
    """Installed versions that must be equal on every rank."""
    named = ("torch", "accelerate", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: str(installed_version(name)) for name in named}}


def look_at_precision(config: RunConfig, facts: dict[str, str]) -> Checked:
    """Device and arithmetic as training would choose them, tried out on a small recurrent step; added to ``facts``."""
    device = precision.choose_device(config.device).value
    precision.configure_threads(device, config.threads)
    choice = precision.choose_precision(config.precision, device)
    place = torch.device(f"cuda:{launched_local_rank()}" if device == "cuda" else device)
    layout, _ = precision.layout_on(place, 16)
    wanted = precision.recurrent_dtype(choice.value, device, layout)
    try_recurrence(VariableLengthLSTM(16, 16).to(place), layout, wanted)
    facts |= {"device": device, "precision": str(choice)}
    if wanted.value != choice.value:
        return "warn", f"{choice}, on {device}; its LSTM computes in {wanted}"
    return "ok", f"{choice}, on {device}"


def look_at_gpus(config: RunConfig) -> Checked:
    """Devices, and whether the processes fit them."""
    cuda, processes, asked = devices.look(), launched_local_world_size(), devices.asked_here()[0]
    device, why = devices.choose(config.device, asked, processes, cuda)
    if device == "cpu":
        unused = (cuda.found or cuda.driver) and asked == "either" and config.device == "auto"
        return ("warn", f"training runs on the CPU: {why} ({cuda})") if unused else ("ok", f"none are used: {why}")
    shown = []
    for place in range(cuda.found):
        free, total = map(size, torch.cuda.mem_get_info(place))
        shown.append(f"{torch.cuda.get_device_name(place)} ({free} of {total} free)")
    if processes < cuda.found:
        return "warn", f"{', '.join(shown)}: {processes} of {cuda.found} used; pass --num_processes to use all"
    return "ok", ", ".join(shown)


def look_at_data(config: RunConfig, facts: dict[str, str]) -> Checked:
    """The dataset, checked as by a training but without hashes."""
    manifest = preflight.check_data(config, launched_world_size(), hashes=False)
    facts[DATASET] = manifest.fingerprint[:16]
    return "ok", f"{config.data}: {manifest.rows(TRAIN):,} training rows"


def look_at_run(config: RunConfig) -> Checked:
    """The run directory, or the one that it would be made in: permissions and free space."""
    point = preflight.check_run(replace(config, dry_run=True), lambda _: None)
    needed, free = 0, shutil.disk_usage(existing(config.run)).free
    with contextlib.suppress(UserError):  # the dataset's own check reports it
        manifest = read_data(config.data)
        # Weights and Adam's two averages in fp32, in the newest checkpoints, the best, and the one being written.
        numbers = 3 if config.optim.ema is None else 4
        needed = (config.checkpoint.keep_last + 2) * 4 * numbers * parameters_of(config, manifest)
    if needed and point.checkpoint is None and preflight.pretraining(config) is None:
        preflight.check_start(config)
    shown = f"{config.run}: {size(free)} free, about {size(needed)} needed"
    if free < needed:
        return "fix", f"{shown}; make room, or name another directory with --run"
    step = point.checkpoint.step if point.checkpoint is not None else 0
    return "ok", f"{shown}; {'the run has finished already' if point.finished else f'the run begins at step {step:,}'}"


def compare(world: World, facts: dict[str, str]) -> Finding:
    """Whether versions, device, precision and dataset are equal on every rank."""
    try:
        world.handshake(facts)
    except UserError as error:
        return Finding("versions", "fix", str(error))
    return Finding(
        "versions", "ok", ", ".join(f"{name} {value}" for name, value in facts.items() if name not in CHOSEN)
    )


def try_network(session: Session, kinds: set[str], met_s: float) -> list[Finding]:
    """How long the ranks took to join, and the result of one all-reduce on the path that gradients take.

    No all-reduce if ranks have several ``kinds`` of device, or cannot compute as requested: it would hang.
    """
    world, backend = session.world, "nccl" if session.device.type == "cuda" else "gloo"
    if world.world_size == 1:
        message = "one process, so no network is needed; --num_processes 2 starts two and tries it"
        return [Finding("rendezvous", "ok", message)]
    shown = f"{world.world_size} ranks on {counted(launched_machines(), 'machine')} met in {met_s:.2f} s"
    met = Finding("rendezvous", "ok", shown)
    if len(kinds) > 1 or "" in kinds:
        return [met, Finding("all-reduce", "warn", "not tried, since not all ranks can compute as requested")]
    numbers = torch.ones(SUM_NUMBERS, device=session.device)
    world.sum_on_device(numbers, "one sum over all ranks")  # it also opens the connections
    begun = time.perf_counter()
    world.sum_on_device(numbers, "one sum over all ranks")
    with world.waiting("one sum over all ranks"):  # here under NCCL
        right = bool((numbers == world.world_size**2).all())
    shown = f"{size(4 * SUM_NUMBERS)} over {backend} in {1000 * (time.perf_counter() - begun):.1f} ms"
    if not right:
        return [met, Finding("all-reduce", "fix", f"{shown}, the sum is wrong; check the network and the GPUs")]
    return [met, Finding("all-reduce", "ok", f"{shown}, the sum is right")]
