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
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.config import RunConfig
from harness.launch import diagnosis, launcher, machines, many
from harness.launch.asked import LaunchRecipe
from harness.launch.diagnosis import Finding
from harness.launch.facts import NOTHING
from harness.ranks.stopping import leave
from harness.training.rules import resolve, resolve_without_data
from preprocessing.base import cli
from preprocessing.base.commands import Command, read
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.screen import Screen, Tone
from preprocessing.base.storage import temporary_folder

PROG = "python -m harness doctor"
MODULE = "harness.launch.doctor"
EXIT_CODE_FILE = "PADLESS_DOCTOR_EXIT_CODE"
"""Environment variable by which ``launch`` tells its ranks where to leave the exit code."""
TONES: dict[str, Tone] = {"ok": "", "warn": "warn", "fix": "bad"}
DEFAULTS = {"data": NOTHING, "run": NOTHING, "timeout_s": 60}
"""Keys of the training that have another default here: without a dataset and a run directory only the machine is looked
at, and ranks that do not come are waited for one minute."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check machine, limits, file systems, versions and network before a training.

    Each line says ok, warn (it would run, but not well) or fix (it would fail); the exit code is 2 if anything is to be
    fixed. Without --data and --run it looks at the machine alone.
    """

    json: bool = False
    """Print JSON."""


KEYS = Command(
    name="doctor",
    summary="The keys that follow the options of accelerate launch.",
    config=f"{MODULE}:DoctorConfig",
    shared="harness.launch.asked:LaunchRecipe",
    shared_defaults=DEFAULTS,
    first=("data", "run", "device", "precision", "json"),
    example=f"{PROG} --num_processes 2 --data data/mine --run runs/mine",
)


def main(argv: list[str]) -> int:
    """Start ranks if there are options for accelerate, else check as the one process or rank that this is."""
    options, keys = launcher.split_arguments(argv, DoctorConfig, LaunchRecipe)
    config, asked = read(KEYS, keys, f"{PROG} [options of accelerate launch]")
    if options:
        return launch(options, keys, asked.timeout_s, as_json=config.json)
    training = asked.recipe if asked.data == NOTHING else many.first(asked)[0]
    try:
        resolved = resolve(training)
    except DataError:  # the report says it
        resolved = resolve_without_data(training)
    return check(resolved.config, as_json=config.json)


def launch(options: list[str], keys: list[str], timeout_s: int, *, as_json: bool) -> int:
    """Run this module on every rank under accelerate's launcher; the exit code that the report of this machine gives.

    Several machines meet before that, at the port where the ranks will; one that does not come ends it here. The ranks
    hand it over in a file and leave with 0, since a launcher makes a noise when a rank does not.
    """
    with temporary_folder() as folder:
        path = folder / "exit_code"
        os.environ[EXIT_CODE_FILE] = str(path)
        arguments = launcher.accelerate_arguments(options, keys, MODULE)
        try:
            machines.try_meeting(arguments, timeout_s, Screen(quiet=as_json).say)
        except UserError as error:
            return report([Finding("rendezvous", "fix", str(error), platform.node())], as_json=as_json)
        failure = launcher.start(arguments)
        if failure is not None:
            print(f"error: {failure.sentence}; what it said is above", file=sys.stderr)
            return failure.code
        return int(path.read_text()) if path.exists() else 0


def check(config: RunConfig, *, as_json: bool) -> int:
    """Look, meet the other ranks, and let rank 0 report; returns this rank's exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # the report says it in a line, torch in forty
    from harness.launch import meeting

    findings = meeting.meet(config)
    if findings is None:
        return 0
    code = report(diagnosis.merged(findings), as_json=as_json)
    if EXIT_CODE_FILE in os.environ:
        Path(os.environ[EXIT_CODE_FILE]).write_text(str(code))
        return 0
    return code


def report(findings: list[Finding], *, as_json: bool) -> int:
    """Print the lines; the exit code that they make."""
    code = diagnosis.exit_code(findings)
    if as_json:
        content = {"exit_code": code, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(content, indent=2), flush=True)
    screen = Screen(quiet=as_json)
    for finding in findings:
        screen.write(diagnosis.render([finding], screen.width).split("\n"), TONES[finding.state])
    return code


if __name__ == "__main__":
    leave(cli.run(main))
