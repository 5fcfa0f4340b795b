# SPDX-License-Identifier: Apache-2.0
"""``python -m harness submit "COMMAND …" …``: job scripts for SLURM, printed, written or submitted in a chain."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from harness.slurm.config import SubmitConfig
from harness.slurm.jobs import jobs_of
from harness.slurm.script import Job, render
from harness.slurm.summary import paragraph
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.screen import Screen

LIMIT_S = 60
"""Longest wait for an answer of SLURM."""
AFTER = ("--kill-on-invalid-dep=yes",)
"""A job whose predecessor failed ends, in place of waiting for ever."""


def main(config: SubmitConfig, commands: list[str]) -> None:
    """Say what is asked of the site, then print, write or submit."""
    jobs = jobs_of(config, commands)
    screen = Screen(errors=True)
    screen.say(paragraph(jobs))
    if config.print:
        if not Path(config.logs).is_dir():
            screen.say(f"Make the folder {config.logs} before you submit this: SLURM does not, and the job would fail.")
        print("\n".join(render(job) for job in jobs), end="")
    elif config.output is not None:
        write(jobs, Path(config.output))
    else:
        submit(jobs)


def write(jobs: list[Job], folder: Path) -> None:
    """Write the scripts, and print the commands that submit them.

    Raises ``ConfigError`` before anything is written if one was changed there, and ``StorageError``.
    """
    scripts = {folder / f"{place}-{job.command}.sbatch": render(job) for place, job in enumerate(jobs, 1)}
    for path, text in scripts.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            raise ConfigError(f"{path}: is there already and differs; move it away, or name another --output")
    make_folder(jobs[0].logs)
    for place, (path, text) in enumerate(scripts.items()):
        try:
            atomic.write_text(path, text)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}); name another --output") from None
        before = f"--dependency=afterok:JOB {' '.join(AFTER)} " if place else ""
        print(f"sbatch {before}{shlex.quote(str(path))}")


def submit(jobs: list[Job]) -> None:
    """Submit each with the one before as its condition; none is left when one is refused. Raises ``ConfigError``."""
    submitted: list[str] = []
    for job in jobs:
        make_folder(job.logs)
        condition = [f"--dependency=afterok:{submitted[-1]}", *AFTER] if submitted else []
        try:
            submitted.append(sbatch(render(job), condition))
        except ConfigError as error:
            if submitted:
                ask(["scancel", *submitted], "")
                raise ConfigError(f"{error}; cancelled: {', '.join(submitted)}, submitted before it") from None
            raise
        tasks = f", {len(job.tasks)} tasks" if job.tasks else ""
        print(f"job {submitted[-1]}: {job.command}{tasks}", flush=True)


def sbatch(script: str, condition: list[str]) -> str:
    """Submit a script; the job's number. Raises ``ConfigError`` with what SLURM said."""
    result = ask(["sbatch", "--parsable", *condition], script)
    number = result.stdout.strip().partition(";")[0]
    if result.returncode or not re.fullmatch(r"\d+", number):
        said = " ".join(result.stderr.replace("sbatch: error: ", "").split()) or f"exit code {result.returncode}"
        raise ConfigError(f"sbatch refused the job: {said}")
    return number


def ask(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """One command of SLURM. Raises ``ConfigError`` where there is none, or no answer."""
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: not found here; submit on a machine of the cluster, or --print") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]}: no answer in {LIMIT_S} s; is the controller up? scontrol ping says") from None


def make_folder(path: str) -> None:
    """Make the folder of the logs, which SLURM does not. Raises ``StorageError``."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"logs: {path}: cannot be made ({error.strerror}); name another folder") from None
