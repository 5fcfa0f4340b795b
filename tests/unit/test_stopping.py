# SPDX-License-Identifier: Apache-2.0
"""Stop signals, in real processes: to a command, and to the launcher, which asks its ranks or kills them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from padless.core.signals import NOTHING_KEPT
from tests.helpers.commands import ROOT, start_python, status_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]
COMMAND = """
import os, signal, sys, time
from padless.core import cli, signals
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


def test_a_command_ends_at_once_whatever_it_does_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    process = start_command(f"""
    import tempfile
    from padless.core.atomic import replacing, temporary_folder
    tempfile.tempdir = {str(tmp_path)!r}
    with signals.COMMAND.advising("all is kept"), temporary_folder(), replacing({str(tmp_path / "file")!r}) as path:
        path.touch()
        while True:
            try:
                time.sleep(30)
            except BaseException:
                print("caught")
""")
    assert len([*tmp_path.iterdir()]) == 2
    process.terminate()
    code, lines, seconds = wait_for_end(process)
    assert (code, lines) == (143, ["error: stopped by SIGTERM: all is kept"])
    assert seconds < 10
    assert [*tmp_path.iterdir()] == []


LAUNCHER = """
import subprocess, sys
from padless.core import signals
signals.listen_in_launcher()
from pathlib import Path
from harness.config import RunConfig
from harness.launch import launcher
from harness.launch.options import TrainConfig
from harness.training.rules import ResolvedConfig
launcher.SAVE_LIMIT_S = 3.0

def start_rank(launch):
    code = subprocess.Popen([sys.executable, "-c", {rank!r}]).wait()
    return launcher.describe_failures({{0: code}}, [])

Path({run!r}).mkdir()
launcher.Launch.start_ranks = start_rank
sys.exit(launcher.Launch(ResolvedConfig(RunConfig(run={run!r}), {{}}), TrainConfig(), 1).run())
"""
RANK = """
import time
from padless.core import signals
signals.STOP.must_save = {must_save}
signals.listen_in_rank()
print("rank", flush=True)
while signals.STOP.signal is None:
    time.sleep(0.01)
time.sleep({seconds})
signals.end_process(85)
"""


@pytest.mark.parametrize(
    ("must_save", "seconds", "names", "code", "reason"),
    [
        (True, 0.2, ["SIGUSR2"], 85, "stopped by SIGUSR2"),
        (False, 60, ["SIGHUP"], 85, "stopped by SIGHUP"),
        (True, 60, ["SIGTERM"], 1, "the ranks had not ended 3 s after SIGTERM, and were killed"),
        (True, 60, ["SIGINT", "SIGINT"], 130, "interrupted twice from the keyboard"),
    ],
)
def test_a_rank_is_asked_and_given_its_time(
    must_save: bool, seconds: float, names: list[str], code: int, reason: str, tmp_path: Path
) -> None:
    rank, run = RANK.format(must_save=must_save, seconds=seconds), str(tmp_path / "run")
    process = start_program(LAUNCHER.format(rank=rank, run=run), "rank")
    for name in names:
        process.send_signal(getattr(signal, name))
        time.sleep(0.3)
    assert wait_for_end(process)[0] == code
    status = status_of(tmp_path / "run")
    assert (status["exit_code"], status["reason"].startswith(reason)) == (code, True)
