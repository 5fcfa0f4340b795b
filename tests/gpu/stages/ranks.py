# SPDX-License-Identifier: Apache-2.0
"""Several ranks, two on one card over gloo or each on its own over NCCL.

One save gives one checkpoint, all hold the same then and stop at one step, and a rank that is killed, stands still or
runs out of memory is noticed.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from harness.rundir import checkpoint
from harness.rundir.records import read_status
from tests.commands import came_true
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import (
    SMALL,
    STOP_SIGNALS,
    finish,
    in_parallel,
    kill_all,
    ranks_of,
    start,
    tail,
)
from tests.runs import rank_of, steps_done

MODULE = "tests.gpu.several_ranks"
BATCH = 8
"""Small, so that an epoch takes several times ``EVERY_S``."""
EVERY_S = 0.5
NOTICE_S = 60
SILENT_S = 15
"""How long ranks wait for one that stands still, and the launcher for one that is to leave."""
START_S = 70
WIDE = ("--model.wide", 1 << 14, "--model.wide_ngrams", 3)


def run(setting: Setting, findings: Findings) -> None:
    """Four trainings, two at once; on a CPU the first two, since the tests of law 7 have the others there."""
    lost = partial(one_is_lost, setting, findings)
    calls = [
        partial(saved_and_stopped, setting, findings),
        partial(lost, "killed", psutil.Process.kill),
        partial(lost, "frozen", psutil.Process.suspend),
        partial(lost, "out of memory", None),
    ]
    in_parallel(calls[:2] if setting.small else calls, 2)


def train(setting: Setting, run: Path, *keys: object, **env: str) -> subprocess.Popen[bytes]:
    """A training that would go on for long."""
    where = ("--data", setting.data, "--run", run, "--device", setting.device, "--precision", "fp32")
    size = ("--epochs", 500, "--global_batch", BATCH * setting.ranks // 2, "--tracking.log_every", 2)
    command = [*ranks_of(setting.ranks), "-m", MODULE, *where, *SMALL, *WIDE, *size]
    env = {"PET_SIGNALS_TO_HANDLE": STOP_SIGNALS, "PET_SHUTDOWN_TIMEOUT": "120", **env}
    return start([*command, "--timeout_s", 60, *keys], run.with_suffix(".log"), **env)


def saved_and_stopped(setting: Setting, findings: Findings) -> int:
    """Checkpoints by the clock, then SIGUSR2 to rank 1 alone."""
    run = setting.scratch / "saved"
    process = train(setting, run, "--checkpoint.every_s", EVERY_S, "--checkpoint.keep_last", 500)
    try:
        came = came_true(lambda: process.poll() is not None or len(saves(run).get(0, {})) >= 4, START_S)
        if not came or process.poll() is not None:
            findings.add("saves", f"no four checkpoints in {START_S} s: {tail(run.with_suffix('.log'))}", False)
            return 1
        rank_of(run, 1, MODULE).send_signal(signal.SIGUSR2)
        code = finish(process, 60)
    finally:
        kill_all(process)
    judge_saves(setting, findings, run)
    status = read_status(run) or {}
    last = {rank: max(steps) for rank, steps in saves(run).items()}
    agree = set(last.values()) == {status.get("step")} and len(last) == setting.ranks
    stopped = status.get("state") == "preempted" and agree
    text = f"{status.get('state')} at step {status.get('step')}; last saves {last}; exit code {code}"
    findings.add("SIGUSR2 to rank 1 alone: all ranks stop at one step", text, stopped and code == 0)
    return code


def judge_saves(setting: Setting, findings: Findings, run: Path) -> None:
    """All ranks save at the same steps, once at each, and hold the same weights and tables then."""
    held, written = saves(run), checkpoint.steps(run)
    same = len(held) == setting.ranks and all(theirs == held[0] for theirs in held.values())
    text = f"{len(held)} ranks, {len(written)} saves, {len(set(held.get(0, {}).values()))} different contents"
    findings.add("all ranks hold the same weights and tables at each save", text, same)
    once = all(list(steps) == sorted(written) for steps in held.values())
    findings.add("one save gives one checkpoint", f"{len(written)} checkpoints", once)


def saves(run: Path) -> dict[int, dict[int, str]]:
    """Rank -> the steps at which it said that it saves -> the hash of what it held."""
    found: dict[int, dict[int, str]] = {}
    said = re.findall(r"rank (\d+) saves at step (\d+), holding (\w+)", run.with_suffix(".log").read_text())
    for rank, step, held in said:
        found.setdefault(int(rank), {})[int(step)] = held
    return found


def one_is_lost(setting: Setting, findings: Findings, how: str, lose: Callable[[psutil.Process], object] | None) -> int:
    """Rank 1 is gone or silent: how long until all others and the launcher have left.

    Without ``lose`` it runs out of memory.
    """
    run, what = setting.scratch / how.replace(" ", "-"), f"rank 1 {how}: noticed within {NOTICE_S} s"
    log = run.with_suffix(".log")
    greedy = {} if lose else {"PADLESS_TEST_OOM": "1:6"}
    process = train(setting, run, "--timeout_s", SILENT_S, PET_SHUTDOWN_TIMEOUT=str(SILENT_S), **greedy)

    def under_way() -> bool:
        return steps_done(run) >= 4 if lose else "now out of memory" in log.read_text(errors="replace")

    try:
        if not came_true(lambda: under_way() or process.poll() is not None, START_S) or not under_way():
            findings.add(what, f"no step in {START_S} s: {tail(log)}", False)
            return 1
        if lose:
            lose(rank_of(run, 1, MODULE))
        started = time.monotonic()
        code = finish(process, NOTICE_S + 30)
        seconds = time.monotonic() - started
    finally:
        kill_all(process)
    said = re.findall(r"(?:error: |OutOfMemoryError)([^\n]{0,160})", log.read_text(errors="replace"))
    text = f"all had left after {seconds:.1f} s, exit code {code}; said: {said[0] if said else 'nothing'}"
    findings.add(what, text, seconds <= NOTICE_S and code not in (0, -signal.SIGKILL) and bool(said))
    return code
