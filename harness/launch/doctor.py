# SPDX-License-Identifier: Apache-2.0
"""``padless doctor``: whether a training would run here, and what to change if not.

    padless doctor --config FILE                              this machine, one process
    padless doctor [options of accelerate launch] --config FILE    start the ranks and test the network
    accelerate launch -m harness.launch.doctor --config FILE            the same under accelerate's own launcher

Each line says ok, warn (it would run, but not well) or fix (it would fail, or not do what was asked). The exit code is
0 if nothing needs fixing, else 2. It leaves no files. ``checkup`` is what it does on each rank.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from harness.config import NOTHING
from harness.launch import launcher, meeting
from harness.launch.options import LOG_LEVEL, OF_ACCELERATE, TrainConfig, accelerate_arguments
from harness.ranks.stopping import leave
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.schema import Seconds
from preprocessing.base.terminal import Screen, Tone
from preprocessing.dataset.views import read_data

if TYPE_CHECKING:
    from harness.launch.checkup import Finding

MODULE = "harness.launch.doctor"
MESSAGE_CELLS = 21
"""Where the message of a line begins."""
TONES: dict[str, Tone] = {"ok": "", "warn": "warn", "fix": "bad"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(TrainConfig):
    """Check machine, limits, file systems, versions and network before a training.

    Each line says ok, warn (it would run, but not well) or fix (it would fail); the exit code is 2 if anything is to be
    fixed. Without a dataset it checks only the machine.
    """

    run: str = NOTHING
    """Run directory of the training; none: not checked."""
    timeout_s: Seconds = 60
    """Longest wait for missing ranks."""
    json: bool = False
    """Print JSON."""


def main(config: DoctorConfig) -> int:
    """Start ranks if a key of accelerate is given, else check in this process."""
    return launch(config) if any(getattr(config, key) for key in OF_ACCELERATE) else check(config)


def rank(argv: list[str]) -> int:
    """Check in this rank."""
    return check(cli.parse(DoctorConfig, argv, prog=f"accelerate launch -m {MODULE}"))


def check(config: DoctorConfig) -> int:
    """Check in this process; the exit code of the report. Raises ``DataError`` for a dataset that cannot be read."""
    training = config.recipe if config.data == NOTHING else resolve(launcher.trainings(config)[0][0]).config
    os.environ.setdefault(LOG_LEVEL, "FATAL")  # the report needs one line, torch forty
    from harness.launch.checkup import examine

    findings = examine(training)
    return 0 if findings is None else report(findings, as_json=config.json)


def launch(config: DoctorConfig) -> int:
    """Run this module on every rank under accelerate's launcher; returns the exit code of the report.

    Several machines meet first, at the port that the ranks will use. Raises ``UserError`` if one does not come.
    """
    if config.data != NOTHING:
        read_data(config.data)
    arguments, config = accelerate_arguments(config, config, MODULE)
    place, say = meeting.place_of(arguments), Screen(quiet=config.json).say
    if place is not None:
        meeting.name_network(place, say)
        meeting.meet(place, "", config.timeout_s, say)
    return launcher.run_module(arguments, config)


def report(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print a line for each finding; returns the exit code."""
    code = 2 if any(finding.state == "fix" for finding in findings) else 0
    if as_json:
        print(json.dumps({"exit_code": code, "findings": [asdict(one) for one in findings]}, indent=2), flush=True)
        return code
    for one in findings:
        message = f"{one.host}: {one.message}" if one.host else one.message
        Screen().fact(f"{one.state:<5} {one.check}", message, TONES[one.state], MESSAGE_CELLS)
    return code


if __name__ == "__main__":
    leave(cli.run(rank))
