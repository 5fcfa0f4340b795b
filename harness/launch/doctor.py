# SPDX-License-Identifier: Apache-2.0
"""``python -m harness doctor``: whether a training would run here, and what to change if not.

    python -m harness doctor --config FILE                              this machine, one process
    python -m harness doctor [options of accelerate launch] --config FILE    start the ranks, let them meet and sum
    accelerate launch -m harness.launch.doctor --config FILE            the same without the launcher's quiet failures

Each line says ok, warn (it would run, but not well) or fix (it would fail, or not do what was asked). The exit code is
0 if nothing needs fixing, else 2. Nothing is left behind.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import RunConfig
from harness.launch import diagnosis, launcher
from harness.launch.diagnosis import Finding
from harness.launch.facts import Data, Machine, Network, Rank, RunFolder
from preprocessing.base import cli
from preprocessing.base.commands import Command, read
from preprocessing.base.errors import UserError

if TYPE_CHECKING:
    from harness.ranks.distributed import World
    from harness.ranks.session import Session

PROG = "python -m harness doctor"
MODULE = "harness.launch.doctor"
NONE = "none"
"""No dataset, or no run directory, to look at."""
SUM_NUMBERS = 2_500_000
"""Numbers that are summed over the ranks: the gradients of a small model."""
EXIT_CODE_FILE = "PADLESS_DOCTOR_EXIT_CODE"
"""Environment variable by which ``launch`` tells its ranks where to leave the exit code."""


DEFAULTS = {"data": NONE, "run": NONE, "timeout_s": 60}
"""Keys of the training that have another default here: without a dataset and a run directory only the machine is looked
at, and ranks that do not come are waited for one minute."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check machine, limits, file systems, versions and network before a training.

    Takes --config FILE and every key of the training too, as launch does. --data and --run name the dataset and the run
    directory to check, --device and --precision what would be computed with, --timeout_s the longest wait for a rank.
    """

    json: bool = False
    """Print JSON."""


COMMAND = Command(
    name="doctor",
    summary="",
    config=f"{MODULE}:DoctorConfig",
    shared="harness.config:RunConfig",
    shared_defaults=DEFAULTS,
)


@dataclass(frozen=True)
class Seen:
    """What one rank saw; the parts about its machine only from the first rank there."""

    rank: Rank
    machine: Machine | None
    data: Data | None
    run: RunFolder | None


def main(argv: list[str]) -> int:
    """Start ranks if there are options for accelerate, else check as the one process or rank that this is."""
    if argv[:1] in (["-h"], ["--help"]):
        print(f"{__doc__}")
        argv = ["--help"]
    options, keys = launcher.split_arguments(argv, DoctorConfig)
    config, training = read(COMMAND, keys, PROG)
    return launch(options, keys) if options else check(training, as_json=config.json)


def launch(options: list[str], keys: list[str]) -> int:
    """Run this module on every rank under accelerate's launcher; the exit code that the report of this machine gives.

    The ranks hand it over in a file and leave with 0, since a launcher makes a noise when a rank does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exit_code")
        os.environ[EXIT_CODE_FILE] = str(path)
        failure = launcher.start(launcher.accelerate_arguments(options, keys, MODULE))
        if failure is not None:
            print(f"error: {failure.sentence}; what it said is above", file=sys.stderr)
            return failure.code
        return int(path.read_text()) if path.exists() else 0


def check(config: RunConfig, *, as_json: bool) -> int:
    """Look, meet the other ranks, and let rank 0 report; returns this rank's exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # the report says it in a line, torch in forty
    from harness.ranks.session import open_session

    seen = look(config)
    started = time.perf_counter()
    try:
        able = seen.rank.problem is None
        with open_session(config.device if able else "cpu", "fp32", config.timeout_s) as session:
            findings = compare(config, seen, session, started)
    except (UserError, RuntimeError) as error:  # torch says with a RuntimeError that nobody came
        findings = [*judge([seen], []), not_met(error)]
    if findings is None:
        return 0
    findings = diagnosis.merged(findings)
    code = diagnosis.exit_code(findings)
    report = {"exit_code": code, "findings": [asdict(finding) for finding in findings]}
    print(json.dumps(report, indent=2) if as_json else diagnosis.render(findings), flush=True)
    if EXIT_CODE_FILE in os.environ:
        Path(os.environ[EXIT_CODE_FILE]).write_text(str(code))
        return 0
    return code


def look(config: RunConfig) -> Seen:
    """What this rank sees before it meets anybody."""
    from harness.launch import machine
    from harness.ranks.distributed import launched_local_rank, launched_world_size

    rank = machine.look_at_rank(config)
    if launched_local_rank() != 0:
        return Seen(rank, None, None, None)
    data, manifest = (None, None) if config.data == NONE else machine.look_at_data(config, launched_world_size())
    run = None if config.run == NONE else machine.look_at_run(config, manifest)
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
    import torch

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
        right = right and bool((numbers == expected).all())  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return Network(world.world_size, machines, backend, met_s, 4 * SUM_NUMBERS, seconds[-1], right)


def blind_machines(config: RunConfig, world: World, everyone: list[Seen]) -> list[str]:
    """The machines that do not see a file which rank 0 writes where the run directory will be; empty elsewhere."""
    from harness.launch import machine

    first = everyone[0].run
    if first is None or first.problem is not None or sum(seen.run is not None for seen in everyone) == 1:
        return []
    token = machine.existing(config.run) / f".padless-doctor-{uuid.uuid4().hex}" if world.is_main else None
    try:
        if token is not None:
            token.touch()
        path = world.gather_objects(token, "a file in the run directory")[0]
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


if __name__ == "__main__":
    sys.exit(cli.run(main))
