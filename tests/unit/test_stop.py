# SPDX-License-Identifier: Apache-2.0
"""Stop signals to the launcher, with real processes as ranks: which are asked to stop or killed, and when."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.commands import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]
LAUNCHER = """
import subprocess, sys, time
from harness.launch import stop
stop.ANSWER_S, stop.OTHERS_S, stop.BACKSTOP_S = 2.0, 1.0, 2.0
STOP = stop.STOP
STOP.begin()
print("begun", flush=True)
time.sleep({before})

def conclude():
    print("concluded", STOP.verdict or STOP.heard[0], flush=True)
    return 7

code = 0
with STOP.ranks(begun=lambda: {begun}, conclude=conclude):
    rank = subprocess.Popen([sys.executable, "-c", {rank!r}])
    code = rank.wait()
print(STOP.heard, STOP.now, STOP.unbegun, STOP.verdict, flush=True)
time.sleep({after})
sys.exit(code % 256)
"""
POLITE = """
import signal, sys, time
from harness.ranks import stopping
stopping.install()
print("rank", flush=True)
while stopping.received() is None:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(5)
"""
STUBBORN = POLITE.replace("time.sleep(0.2)", "time.sleep(60)")


def launcher(rank: str, begun: bool = True, before: float = 0, after: float = 0) -> subprocess.Popen[str]:
    code = LAUNCHER.format(rank=rank, begun=begun, before=before, after=after)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "begun\n"
    return process


def rank_is_there(process: subprocess.Popen[str]) -> None:
    assert process.stdout.readline() == "rank\n"


def end(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    began = time.monotonic()
    out, _ = process.communicate(timeout=30)
    return process.returncode, out, time.monotonic() - began


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_rank_is_asked_and_given_its_time(name: str) -> None:
    process = launcher(POLITE)
    rank_is_there(process)
    process.send_signal(getattr(signal, name))
    assert end(process)[:2] == (5, f"['{name}'] False False None\n")


def test_a_rank_that_stays_stopped_is_killed_and_named() -> None:
    process = launcher(STUBBORN)
    rank_is_there(process)
    (rank,) = psutil.Process(process.pid).children()
    rank.suspend()
    process.terminate()
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        if psutil.pid_exists(rank.pid) and rank.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            rank.suspend()
        time.sleep(0.02)
    code, out, _ = end(process)
    assert code == -signal.SIGKILL % 256
    assert f"rank 0 (process {rank.pid}, stopped) did not answer SIGTERM within 2 s and was killed" in out
