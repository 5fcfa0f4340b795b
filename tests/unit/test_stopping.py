# SPDX-License-Identifier: Apache-2.0
"""Stop signals, in real processes: to a command, and to the launcher, which asks its ranks or kills them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from padless.core.errors import UserError
from padless.core.processes import lock_file
from padless.core.signals import NOTHING_KEPT
from tests.helpers.commands import ROOT, start_python

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]
COMMAND = """
import os, signal, sys, time
from padless.core import cli, signals
signals.CLEANUP_LIMIT_S = 2.0
signals.COMMAND.listen()

def main(words):
    {body}

print("ready", flush=True)
sys.exit(cli.run(main, []))
"""
READY = "print('in it', flush=True); "


def start_command(body: str) -> subprocess.Popen[str]:
    """A running command whose ``main`` is ``body``."""
    pause = "time.sleep(30)"  # inside whatever stands around it
    body = body.replace(pause, READY + pause, 1) if pause in body else READY + body
    return start_program(COMMAND.replace("{body}", body), "ready", "in it")


def start_program(program: str, *lines: str) -> subprocess.Popen[str]:
    """A running program that has printed these lines."""
    process = start_python("-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in lines:
        assert process.stdout.readline() == f"{line}\n"
    return process


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, list[str], float]:
    """Its exit code, the lines on stderr, and how long it took to end."""
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    return process.returncode, err.splitlines(), time.monotonic() - began


EARLY = """
import os, signal, sys
class Sender:
    '''Sends a signal to this process when the first module of ours with imports of its own is imported.'''
    def find_spec(self, name, *_):
        if name == "padless.core":
            os.kill(os.getpid(), signal.{name})
sys.meta_path.insert(0, Sender())
sys.argv = ["padless", *{words}]
from {module} import {function}
sys.exit({function}())
"""


@pytest.mark.parametrize(
    ("name", "words", "code", "sentence"),
    [
        ("SIGTERM", ["inspect", "nowhere"], 143, f"stopped by SIGTERM: {NOTHING_KEPT}"),
        ("SIGINT", ["inspect", "nowhere"], 130, f"interrupted from the keyboard: {NOTHING_KEPT}"),
        ("SIGINT", ["train"], 85, "stopped by SIGINT before any process was started; the same command goes on"),
    ],
)
def test_a_signal_during_the_first_imports_of_the_script(name: str, words: list[str], code: int, sentence: str) -> None:
    module, function = re.search('^padless = "(.+):(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).groups()
    program = EARLY.format(name=name, words=words, module=module, function=function)
    process = start_python("-c", program, stderr=subprocess.PIPE)
    assert wait_for_end(process)[:2] == (code, [f"error: {sentence}"])


def test_what_is_kept_is_said_and_what_was_begun_is_put_in_order(tmp_path: Path) -> None:
    marker = tmp_path / "put in order"
    body = f"""
    with signals.COMMAND.advising("all is kept"):
        try:
            {READY}time.sleep(30)
        finally:
            open({str(marker)!r}, "w").close()
"""
    process = start_command(body)
    process.terminate()
    assert wait_for_end(process)[:2] == (143, ["error: stopped by SIGTERM: all is kept"])
    assert marker.exists()


def test_a_second_press_of_ctrl_c_means_now(tmp_path: Path) -> None:
    process = start_command(f"""
    import tempfile
    from padless.core.atomic import temporary_folder
    tempfile.tempdir = {str(tmp_path)!r}
    with temporary_folder():
        try:
            time.sleep(30)
        finally:
            time.sleep(20)
""")
    assert len([*tmp_path.iterdir()]) == 1
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    code, lines, seconds = wait_for_end(process)
    assert (code, len(lines)) == (130, 1)
    assert lines[0].startswith("error: interrupted again: ended at once")
    assert seconds < 15, "it did not sleep to its end"
    assert [*tmp_path.iterdir()] == [], "no temporary folder is left"


def test_an_import_is_not_interrupted_but_ended(tmp_path: Path) -> None:
    """Native modules abort the process if an exception is raised during their import."""
    lines = ["import time", "try:", "    print('importing', flush=True)", "    time.sleep(30)"]
    lines += ["except BaseException:", "    raise SystemExit(9)"]
    (tmp_path / "slow.py").write_text("\n".join(lines))
    process = start_command(f"sys.path.insert(0, {str(tmp_path)!r}); import slow")
    assert process.stdout.readline() == "importing\n"
    process.terminate()
    assert wait_for_end(process)[:2] == (143, [f"error: stopped by SIGTERM: {NOTHING_KEPT}"])


HOLD = """
import sys, time
from pathlib import Path
from padless.core.errors import UserError
from padless.core.processes import lock_file
with lock_file(Path({path!r}), 0, UserError("taken")):
    print("held", flush=True)
    time.sleep(60)
"""
LOCK_ERROR = UserError("out: another run is writing; wait for it")


def test_who_holds_a_lock_is_said(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = start_program(HOLD.format(path=str(path)), "held")
    try:
        with pytest.raises(UserError) as refused, lock_file(path, 0.2, LOCK_ERROR):
            pass
        assert str(refused.value) == f"out: another run is writing; wait for it (process {holder.pid})"
    finally:
        holder.kill()
        holder.communicate(timeout=20)
    with lock_file(path, 5, LOCK_ERROR):  # a dead process holds nothing
        assert path.read_text().split()[1] == str(os.getpid())


LAUNCHER = """
import subprocess, sys, time
from padless.core import signals
signals.SAVE_LIMIT_S = 3.0
signals.LAUNCHER.listen()

code = 0
with signals.LAUNCHER.supervise(conclude=lambda: 7, start_limit_s=20):
    rank = subprocess.Popen([sys.executable, "-c", {rank!r}])
    code = rank.wait()
print(signals.STOP.name, signals.LAUNCHER.verdict, flush=True)
sys.exit(code % 256)
"""
RANK = """
import signal, sys, time
from padless.core import signals
signals.listen_in_rank(can_save=lambda: {can_save})
print("rank", flush=True)
while signals.STOP.signal is None:
    time.sleep(0.01)
time.sleep({seconds})
sys.exit(5)
"""
KILLED = "(1, 'the ranks had not ended 3 s after SIGTERM, and were killed; "
TWICE = "(130, 'interrupted twice from the keyboard: ended at once; "


@pytest.mark.parametrize(
    ("can_save", "seconds", "names", "code", "verdict"),
    [
        (True, 0.2, ["SIGTERM"], 5, "SIGTERM None"),
        (True, 0.2, ["SIGUSR2"], 5, "SIGUSR2 None"),
        (False, 60, ["SIGHUP"], 85, "SIGHUP None"),
        (True, 60, ["SIGTERM"], -signal.SIGKILL % 256, f"SIGTERM {KILLED}"),
        (True, 60, ["SIGINT", "SIGINT"], -signal.SIGKILL % 256, f"SIGINT {TWICE}"),
    ],
)
def test_a_rank_is_asked_and_given_its_time(
    can_save: bool, seconds: float, names: list[str], code: int, verdict: str
) -> None:
    process = start_program(LAUNCHER.format(rank=RANK.format(can_save=can_save, seconds=seconds)), "rank")
    for name in names:
        process.send_signal(getattr(signal, name))
        time.sleep(0.3)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert out.startswith(verdict)


def test_a_rank_that_stays_stopped_is_killed() -> None:
    process = start_program(LAUNCHER.format(rank=RANK.format(can_save=True, seconds=60)), "rank")
    (rank,) = psutil.Process(process.pid).children()
    rank.suspend()
    process.terminate()
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        if psutil.pid_exists(rank.pid) and rank.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            rank.suspend()
        time.sleep(0.02)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL % 256
    assert out.startswith(f"SIGTERM {KILLED}")
