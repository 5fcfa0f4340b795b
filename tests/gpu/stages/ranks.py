# SPDX-License-Identifier: Apache-2.0
"""Two ranks on one card, over gloo: one save gives one checkpoint, all stop at one step, a killed peer is noticed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path

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
EVERY_S = 2
NOTICE_S = 60
START_S = 70


def run(setting: Setting, findings: Findings) -> None:
    """Two trainings of two ranks; at once on a card."""
    calls = [partial(saved_and_stopped, setting, findings), partial(killed, setting, findings)]
    in_parallel(calls, 1 if setting.small else 2)


def train(setting: Setting, run: Path, *keys: object) -> subprocess.Popen[bytes]:
    """A training that would go on for long."""
    batch = 32 if setting.small else 64
    where = ("--data", setting.data, "--run", run, "--device", setting.device, "--precision", "fp32")
    command = [*two_ranks(), "-m", MODULE, *where, *SMALL, "--epochs", 500, "--global_batch", batch, *keys]
    signals = {"PET_SIGNALS_TO_HANDLE": STOP_SIGNALS, "PET_SHUTDOWN_TIMEOUT": "120"}
    return start([*command, "--tracking.log_every", 2, "--timeout_s", 60], run.with_suffix(".log"), **signals)


def saved_and_stopped(setting: Setting, findings: Findings) -> int:
    """Checkpoints by the clock, then SIGUSR2 to rank 1 alone."""
    run = setting.scratch / "saved"
    process = train(setting, run, "--checkpoint.every_s", EVERY_S, "--checkpoint.keep_last", 500)
    try:
        checkpoints = run / "checkpoints"
        came = wait_until(lambda: process.poll() is not None or len(names(checkpoints)) >= 3, START_S)
        if not came or process.poll() is not None:
            findings.add("saves", f"no three checkpoints in {START_S} s: {tail(run.with_suffix('.log'))}", False)
            return 1
        rank_process(process, 1, MODULE).send_signal(signal.SIGUSR2)
        code = finish(process, 60)
    finally:
        kill_all(process)
    judge_saves(findings, run)
    status = status_of(run)
    said = saves(run)
    last = {rank: steps[-1] for rank, steps in said.items() if steps}
    stopped = status.get("state") == "preempted" and set(last.values()) == {status.get("step")} and len(last) == 2
    text = f"{status.get('state')} at step {status.get('step')}; last saves {last}; exit code {code}"
    findings.add("SIGUSR2 to rank 1 alone: both ranks stop at one step", text, stopped and code == 0)
    return code


def judge_saves(findings: Findings, run: Path) -> None:
    """Each rank saves at the same steps, once at each, and the clock's checkpoints are ``EVERY_S`` apart."""
    said, held = saves(run), names(run / "checkpoints")
    first, second = said.get(0, []), said.get(1, [])
    once = max(Counter(first).values(), default=0) == 1
    written = [step for step in first if f"{step:010d}" in held or any(int(name) == step for name in held)]
    due = [path.stat().st_mtime for path in sorted((run / "checkpoints").iterdir(), key=lambda path: int(digits(path)))]
    gaps = [later - earlier for earlier, later in zip(due, due[1:], strict=False)]
    per_wish = len(held) <= 2 + sum(gaps) / (0.8 * EVERY_S) + epochs_in(first)
    findings.figure("saves", {"steps": first, "gaps_s": gaps})
    findings.add(
        "one save gives one checkpoint",
        f"{len(held)} checkpoints in {sum(gaps):.1f} s with one due each {EVERY_S} s; steps {first}",
        first == second and once and len(written) == len(held) and per_wish,
    )


def epochs_in(steps: list[int]) -> int:
    """Epoch ends among the saves are the multiples of the smallest one that is followed by its double, if any."""
    return sum(2 * step in steps for step in steps)


def digits(path: Path) -> str:
    """The step in a checkpoint's name."""
    return re.sub(r"\D", "", path.name)


def names(checkpoints: Path) -> list[str]:
    """The steps of whole checkpoints, as digits."""
    found = checkpoints.iterdir() if checkpoints.is_dir() else []
    return [digits(path) for path in found if re.fullmatch(r"(step-)?\d+", path.name)]


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
