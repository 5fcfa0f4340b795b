# SPDX-License-Identifier: Apache-2.0
"""What the doctor does on every rank: look at the machine, meet the others, put together what all saw, sum once."""

from __future__ import annotations

import os
import platform
import time
import uuid
from dataclasses import dataclass

import torch

from harness.config import RunConfig
from harness.launch import diagnosis, machine
from harness.launch.diagnosis import Finding
from harness.launch.facts import NOTHING, Data, Machine, Network, Rank, RunFolder
from harness.ranks.distributed import World, launched_local_rank, launched_world_size
from harness.ranks.session import Session, open_session
from preprocessing.base.errors import UserError

SUM_NUMBERS = 2_500_000
"""Numbers that are summed over the ranks: the gradients of a small model."""


@dataclass(frozen=True)
class Seen:
    """What one rank saw; the parts about its machine only from the first rank there."""

    rank: Rank
    machine: Machine | None
    data: Data | None
    run: RunFolder | None


def meet(config: RunConfig) -> list[Finding] | None:
    """Look at this machine, meet the other ranks and try the network; the findings on rank 0, None elsewhere."""
    seen = look(config)
    started = time.perf_counter()
    try:
        able = seen.rank.problem is None
        with open_session(config.device if able else "cpu", "fp32", config.timeout_s, config.threads) as session:
            return compare(config, seen, session, started)
    except (UserError, RuntimeError) as error:  # torch says with a RuntimeError that nobody came
        return [*judge([seen], []), not_met(error)]


def look(config: RunConfig) -> Seen:
    """What this rank sees before it meets anybody."""
    rank = machine.look_at_rank(config)
    if launched_local_rank() != 0:
        return Seen(rank, None, None, None)
    data, manifest = (None, None) if config.data == NOTHING else machine.look_at_data(config, launched_world_size())
    run = None if config.run == NOTHING else machine.look_at_run(config, manifest)
    return Seen(rank, machine.look_at_machine(config, manifest), data, run)


def compare(config: RunConfig, mine: Seen, session: Session, started: float) -> list[Finding] | None:
    """Put together what all ranks saw, and try the network; the findings on rank 0, None elsewhere."""
    world = session.world
    everyone = world.gather_objects(mine, "what each rank saw")
    met_s = time.perf_counter() - started
    network = try_network(world, session, everyone, met_s)
    unseen = blind_machines(config, world, everyone)
    return [*judge(everyone, unseen), *diagnosis.judge_network(network)] if world.is_main else None


def judge(everyone: list[Seen], unseen: list[str]) -> list[Finding]:
    """All lines but those about the network."""
    findings = diagnosis.judge_ranks([seen.rank for seen in everyone])
    for seen in everyone:
        findings += [] if seen.machine is None else diagnosis.judge_machine(seen.machine)
    findings += diagnosis.judge_data([seen.data for seen in everyone if seen.data is not None])
    return findings + diagnosis.judge_run([seen.run for seen in everyone if seen.run is not None], unseen)


def try_network(world: World, session: Session, everyone: list[Seen], met_s: float) -> Network:
    """One sum over all ranks of as many numbers as gradients have, over the path that gradients take.

    Not where a rank could not compute as asked: it would wait on another path than the others.
    """
    machines = sum(seen.machine is not None for seen in everyone)
    backend = "nccl" if session.device.type == "cuda" else "gloo"
    if any(seen.rank.problem is not None for seen in everyone) or len({seen.rank.device for seen in everyone}) > 1:
        return Network(world.world_size, machines, backend, met_s)
    expected = world.world_size * (world.world_size + 1) / 2
    seconds, right = [], True
    for _ in range(2):  # the first sum also opens the connections
        numbers = torch.full((SUM_NUMBERS,), world.rank + 1.0, device=session.device)
        begun = time.perf_counter()
        world.sum_on_device(numbers, "one sum over all ranks")
        with world.waiting("one sum over all ranks"):  # here under NCCL
            right = right and bool((numbers == expected).all())
        seconds.append(time.perf_counter() - begun)
    return Network(world.world_size, machines, backend, met_s, 4 * SUM_NUMBERS, seconds[-1], right)


def blind_machines(config: RunConfig, world: World, everyone: list[Seen]) -> list[str]:
    """The machines that do not see a file which rank 0 writes where the run directory will be; empty elsewhere."""
    first = everyone[0].run
    if first is None or first.problem is not None or sum(seen.run is not None for seen in everyone) == 1:
        return []
    token = machine.existing(config.run) / f".padless-doctor-{uuid.uuid4().hex}" if world.is_main else None
    try:
        if token is not None:
            token.touch()
        path = world.from_main(token, "a file in the run directory")
        visible = path is not None and path.exists()
        answers = world.gather_objects((platform.node(), visible), "whether all see that file")
        return sorted({host for host, sees in answers if not sees})
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def not_met(error: Exception) -> Finding:
    """The line for ranks that did not find each other."""
    reason = " ".join(str(error).split())[:300]
    where = f"{os.environ.get('MASTER_ADDR', 'this machine')}:{os.environ.get('MASTER_PORT', '?')}"
    message = (
        f"rank {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')} did not meet the others at {where} "
        f"({reason}); start it on every machine, with one address that all can reach and an open port"
    )
    return Finding("rendezvous", "fix", message, platform.node())
