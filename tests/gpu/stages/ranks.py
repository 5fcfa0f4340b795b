# SPDX-License-Identifier: Apache-2.0
"""Two ranks on one card, over gloo: one save gives one checkpoint, all stop at one step, a killed peer is noticed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from harness.data.checks import TRAIN
from harness.rundir import checkpoint
from preprocessing.dataset.shards import read_manifest
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import (
    SMALL,
    STOP_SIGNALS,
    finish,
    in_parallel,
    kill_all,
    rank_process,
    start,
    status_of,
    steps_done,
    tail,
    two_ranks,
    wait_until,
)

MODULE = "tests.gpu.one_card"
BATCH = 8
"""Small, so that an epoch takes several times ``EVERY_S``."""
EVERY_S = 0.5
NOTICE_S = 60
START_S = 70


def run(setting: Setting, findings: Findings) -> None:
    """Two trainings of two ranks; at once on a card."""
    calls = [partial(saved_and_stopped, setting, findings), partial(killed, setting, findings)]
    in_parallel(calls, 1 if setting.small else 2)


def train(setting: Setting, run: Path, *keys: object) -> subprocess.Popen[bytes]:
    """A training that would go on for long."""
    where = ("--data", setting.data, "--run", run, "--device", setting.device, "--precision", "fp32")
    command = [*two_ranks(), "-m", MODULE, *where, *SMALL, "--epochs", 500, "--global_batch", BATCH, *keys]
    signals = {"PET_SIGNALS_TO_HANDLE": STOP_SIGNALS, "PET_SHUTDOWN_TIMEOUT": "120"}
    return start([*command, "--tracking.log_every", 2, "--timeout_s", 60], run.with_suffix(".log"), **signals)


def saved_and_stopped(setting: Setting, findings: Findings) -> int:
    """Checkpoints by the clock, then SIGUSR2 to rank 1 alone."""
    run = setting.scratch / "saved"
    process = train(setting, run, "--checkpoint.every_s", EVERY_S, "--checkpoint.keep_last", 500)
    try:
        came = wait_until(lambda: process.poll() is not None or len(by_the_clock(setting, run)) >= 4, START_S)
        if not came or process.poll() is not None:
            findings.add("saves", f"no four checkpoints in {START_S} s: {tail(run.with_suffix('.log'))}", False)
            return 1
        rank_process(process, 1, MODULE).send_signal(signal.SIGUSR2)
        code = finish(process, 60)
    finally:
        kill_all(process)
    judge_saves(setting, findings, run)
    status = status_of(run)
    last = {rank: steps[-1] for rank, steps in saves(run).items()}
    stopped = status.get("state") == "preempted" and set(last.values()) == {status.get("step")} and len(last) == 2
    text = f"{status.get('state')} at step {status.get('step')}; last saves {last}; exit code {code}"
    findings.add("SIGUSR2 to rank 1 alone: both ranks stop at one step", text, stopped and code == 0)
    return code


def judge_saves(setting: Setting, findings: Findings, run: Path) -> None:
    """Both ranks save at the same steps, once at each; what the clock asks for comes ``EVERY_S`` after the last."""
    said, written = saves(run), checkpoint.steps(run)
    times = {step: checkpoint.path_of(run, step).stat().st_mtime for step in written}
    clock = [step for step in by_the_clock(setting, run)[:-1] if step != written[0]]  # the last one is the stop
    gaps = {step: times[step] - times[written[written.index(step) - 1]] for step in clock if step in times}
    findings.figure("saves", {"steps": said, "gaps_s": gaps})
    findings.add(
        "one save gives one checkpoint",
        f"{len(written)} checkpoints, {len(clock)} of them due by the clock, each at least "
        f"{min(gaps.values(), default=0):.2f} s after the one before, with one due after {EVERY_S} s",
        said.get(0) == said.get(1) == sorted(written) and min(gaps.values(), default=0) >= EVERY_S / 2,
    )


def by_the_clock(setting: Setting, run: Path) -> list[int]:
    """The steps of rank 0's saves that are no ends of epochs."""
    per_epoch = -(-read_manifest(setting.data).rows(TRAIN) // BATCH)
    return [step for step in saves(run).get(0, []) if step % per_epoch]


def saves(run: Path) -> dict[int, list[int]]:
    """Rank -> the steps at which it said that it saves."""
    found: dict[int, list[int]] = {}
    for rank, step in re.findall(r"rank (\d+) saves at step (\d+)", run.with_suffix(".log").read_text()):
        found.setdefault(int(rank), []).append(int(step))
    return found


def killed(setting: Setting, findings: Findings) -> int:
    """SIGKILL for rank 1: how long until rank 0 and the launcher have left."""
    run = setting.scratch / "killed"
    process = train(setting, run)
    try:
        if not wait_until(lambda: process.poll() is not None or steps_done(run) >= 4, START_S):
            findings.add("a killed peer", f"no step in {START_S} s: {tail(run.with_suffix('.log'))}", False)
            return 1
        rank_process(process, 1, MODULE).kill()
        started = time.monotonic()
        code = finish(process, NOTICE_S + 30)
        seconds = time.monotonic() - started
    finally:
        kill_all(process)
    said = re.findall(r"error: ([^\n]{0,160})", run.with_suffix(".log").read_text(errors="replace"))
    text = f"all had left after {seconds:.1f} s, exit code {code}; rank 0 said: {said[0] if said else 'nothing'}"
    findings.add("a killed peer is noticed within 60 s", text, seconds <= NOTICE_S and code not in (0, -signal.SIGKILL))
    return code
