# SPDX-License-Identifier: Apache-2.0
"""Jobs on the cluster of two nodes that ``tests/slurm/cluster.sh start`` makes; without it these tests skip."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

STATE = Path(os.environ.get("PADLESS_SLURM", "/tmp/padless-slurm"))
COMMAND_LIMIT_S = 120
TURN_LIMIT_S = 900
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"}


def ask(*command: object, timeout_s: float = COMMAND_LIMIT_S) -> str:
    """What one of SLURM's commands prints, run from the repository's root; fails with what it complained about."""
    words = [*map(str, command)]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout.strip()


def why_no_cluster() -> str | None:
    """Why no job can be run here, or None."""
    if shutil.which("sinfo") is None:
        return "needs SLURM: apt-get install slurm-wlm munge, then tests/slurm/cluster.sh start as root"
    if "SLURM_CONF" not in os.environ and (STATE / "slurm.conf").is_file():
        os.environ["SLURM_CONF"] = str(STATE / "slurm.conf")
    try:
        nodes = ask("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %t", timeout_s=5).splitlines()
    except (AssertionError, subprocess.TimeoutExpired):
        nodes = []
    ready = {node.split()[0] for node in nodes if node.split()[1] in {"idle", "alloc", "mix", "comp"}}
    return None if ready == {"n1", "n2"} else "needs the nodes n1 and n2 of tests/slurm/cluster.sh start"


class Cluster:
    """Submits jobs, waits for them, and remembers them, so that none outlives its test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[str] = []

    def submit(self, script: str, *words: object, options: tuple[object, ...] = (), site: str = "") -> str:
        """``sbatch`` with a script as it is, from the repository's root; returns the job's number.

        ``site`` is the site's file, if it is not one that names this Python.
        """
        site_file = self.folder / "site.sh"
        site_file.write_text(site or f"python=({shlex.quote(sys.executable)})\n")
        limits = ("--partition=low", "--nodes=2", "--cpus-per-task=2", "--time=10")
        log = f"--output={self.folder}/padless-{script}-%j.log"
        command = ("sbatch", "--parsable", *limits, log, *options, f"launch/slurm/{script}.sbatch", *words)
        self.jobs.append(ask("env", f"PADLESS_SITE={site_file}", *command))
        return self.jobs[-1]

    def field(self, job: str, name: str) -> str:
        """A field of ``scontrol show job``, such as JobState, Restarts or ExitCode (``code:signal``)."""
        fields = dict(word.split("=", 1) for word in ask("scontrol", "show", "job", job).split() if "=" in word)
        return fields[name]

    def log(self, job: str) -> str:
        """What the job, or ``JOB_TASK`` of an array, has printed so far."""
        return "".join(path.read_text() for path in self.folder.glob(f"*-{job}.log"))

    def until(self, job: str, condition: Callable[[], bool], event: str, timeout_s: float) -> None:
        """Wait for something to become true while a job is at work; fails, showing the log, when it does not."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            state = self.field(job, "JobState")
            assert state not in ENDED, f"job {job} was {state} before {event}:\n{self.log(job)}"
            assert time.monotonic() < deadline, f"job {job}, {state}: no {event} in {timeout_s} s:\n{self.log(job)}"
            time.sleep(0.1)

    def wait(self, job: str, timeout_s: float) -> str:
        """The state that the job ends in; fails, showing its log, when it does not end in time."""
        deadline = time.monotonic() + timeout_s
        while (state := self.field(job, "JobState")) not in ENDED:
            assert time.monotonic() < deadline, f"job {job} still {state} after {timeout_s} s:\n{self.log(job)}"
            time.sleep(0.2)
        return state

    def complete(self, job: str, timeout_s: float) -> None:
        """Wait for the job's end; fails, showing its log, unless it is a good one."""
        state = self.wait(job, timeout_s)
        assert state == "COMPLETED", f"job {job}: {state}, exit {self.field(job, 'ExitCode')}:\n{self.log(job)}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The cluster for this test alone, whatever other test processes want of it; skips where there is none."""
    reason = why_no_cluster()
    if reason:
        pytest.skip(reason)
    deadline = time.monotonic() + TURN_LIMIT_S
    with open(STATE / "turn", "w") as turn:
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"other tests kept the cluster for {TURN_LIMIT_S} s"
                time.sleep(0.2)
        running = Cluster(tmp_path)
        yield running
        for job in running.jobs:
            subprocess.run(["scancel", "--quiet", job], timeout=COMMAND_LIMIT_S, check=False)
