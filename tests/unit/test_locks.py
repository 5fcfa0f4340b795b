# SPDX-License-Identifier: Apache-2.0
"""Locks: who holds one is said, here, stopped, and on another machine; a dead process holds none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from preprocessing.base.errors import UserError
from preprocessing.base.machine import locked
from tests.commands import ROOT

HOLD = """
import sys, time
from pathlib import Path
from preprocessing.base.errors import UserError
from preprocessing.base.machine import locked
with locked(Path(sys.argv[1]), 0, UserError("taken")):
    print("held", flush=True)
    time.sleep(60)
"""
TAKEN = UserError("out: another run is writing; wait for it")


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_who_holds_a_lock_is_said_and_how_to_let_it_go_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused, locked(path, 0.2, TAKEN):
            pass
        assert str(refused.value) == f"out: another run is writing; wait for it (process {holder.pid})"
        holder.send_signal(signal.SIGSTOP)
        while psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with pytest.raises(UserError) as refused, locked(path, 0, TAKEN):
            pass
        stopped = f"(process {holder.pid}, T (stopped); kill -CONT {holder.pid} lets it go on)"
        assert str(refused.value) == f"out: another run is writing; wait for it {stopped}"
    finally:
        holder.kill()
        holder.wait(20)
        holder.stdout.close()
    with locked(path, 5, TAKEN):  # a dead process holds nothing
        assert path.read_text().split()[0] == str(os.getpid())


def test_a_holder_on_another_machine_is_named_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, 0, TAKEN):
        path.write_text("4711 node7")
        with pytest.raises(UserError, match=r"wait for it \(process 4711 on node7\)$"), locked(path, 0, TAKEN):
            pass
        path.write_text("")  # a file system whose lock came before its content
        with pytest.raises(UserError, match=r"wait for it$"), locked(path, 0, TAKEN):
            pass
