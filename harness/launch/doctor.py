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
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.config import RunConfig
from harness.launch import diagnosis, launcher
from harness.launch.facts import NOTHING
from preprocessing.base import cli
from preprocessing.base.commands import Command, read
from preprocessing.base.screen import Screen, Tone

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

    Takes --config FILE and every key of the training too, as launch does. --data and --run name the dataset and the run
    directory to check, --device and --precision what would be computed with, --timeout_s the longest wait for a rank.
    """

    json: bool = False
    """Print JSON."""


KEYS = Command(
    name="doctor",
    summary="The keys that follow the options of accelerate launch.",
    config=f"{MODULE}:DoctorConfig",
    shared="harness.config:RunConfig",
    shared_defaults=DEFAULTS,
)


def main(argv: list[str]) -> int:
    """Start ranks if there are options for accelerate, else check as the one process or rank that this is."""
    if argv[:1] in (["-h"], ["--help"]):
        print(f"{__doc__}")
        argv = ["--help"]
    options, keys = launcher.split_arguments(argv, DoctorConfig)
    config, training = read(KEYS, keys, PROG)
    return launch(options, keys) if options else check(training, as_json=config.json)


def launch(options: list[str], keys: list[str]) -> int:
    """Run this module on every rank under accelerate's launcher; the exit code that the report of this machine gives.

    The ranks hand it over in a file and leave with 0, since a launcher makes a noise when a rank does not.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exit_code")
        os.environ[EXIT_CODE_FILE] = str(path)
        launcher.tell_devices(options)
        failure = launcher.start(launcher.accelerate_arguments(options, keys, MODULE))
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
    findings = diagnosis.merged(findings)
    code = diagnosis.exit_code(findings)
    report = {"exit_code": code, "findings": [asdict(finding) for finding in findings]}
    if as_json:
        print(json.dumps(report, indent=2), flush=True)
    screen = Screen(quiet=as_json)
    for finding in findings:
        screen.write(diagnosis.render([finding], screen.width).split("\n"), TONES[finding.state])
    if EXIT_CODE_FILE in os.environ:
        Path(os.environ[EXIT_CODE_FILE]).write_text(str(code))
        return 0
    return code


if __name__ == "__main__":
    sys.exit(cli.run(main))
