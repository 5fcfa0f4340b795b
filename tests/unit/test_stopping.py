# SPDX-License-Identifier: Apache-2.0
"""A stop signal to a command, in real processes: the sentence, the exit code, and how soon."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocessing.base import stopping
from tests.commands import ROOT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]
COMMAND = """
import os, signal, sys, time
from preprocessing.base import cli, stopping
stopping.LIMIT_S = 2.0
stopping.listen()

def main(words):
    {body}

print("ready", flush=True)
sys.exit(cli.run(main, []))
"""
READY = "print('in it', flush=True); "


def begin(body: str) -> subprocess.Popen[str]:
    """A command whose ``main`` is ``body``; it has begun."""
    where = "time.sleep(30)"  # inside whatever stands around it
    body = body.replace(where, READY + where, 1) if where in body else READY + body
    code = COMMAND.replace("{body}", body)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "in it\n"]
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, list[str], float]:
    """Its exit code, the lines on stderr, and how long it took to end."""
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    return process.returncode, err.splitlines(), time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [
        ("SIGTERM", 143, "told to stop by SIGTERM"),
        ("SIGINT", 130, "interrupted from the keyboard"),
        ("SIGUSR2", 140, "told to stop by SIGUSR2"),
        pytest.param("SIGHUP", 129, "told to stop by SIGHUP", marks=pytest.mark.slow),
        pytest.param("SIGUSR1", 138, "told to stop by SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_every_stop_signal_gets_a_sentence_and_a_code(name: str, code: int, why: str) -> None:
    process = begin("time.sleep(30)")
    process.send_signal(getattr(signal, name))
    assert end(process)[:2] == (code, [f"error: {why}: {stopping.NOTHING}"])


def test_what_is_kept_is_said_and_what_was_begun_is_put_in_order(tmp_path: Path) -> None:
    done = tmp_path / "put in order"
    body = f"""
    with stopping.keeping("all is kept"):
        try:
            {READY}time.sleep(30)
        finally:
            open({str(done)!r}, "w").close()
"""
    process = begin(body)
    process.terminate()
    assert end(process)[:2] == (143, ["error: told to stop by SIGTERM: all is kept"])
    assert done.exists()


def test_an_error_on_the_way_out_is_not_what_is_said() -> None:
    body = """
    try:
        time.sleep(30)
    finally:
        raise OSError("of no interest")
"""
    process = begin(body)
    process.terminate()
    assert end(process)[:2] == (143, [f"error: told to stop by SIGTERM: {stopping.NOTHING}"])


def test_a_library_that_catches_everything_is_told_again() -> None:
    body = """
    try:
        time.sleep(30)
    except BaseException:
        pass
    time.sleep(30)
"""
    process = begin(body)
    process.send_signal(signal.SIGINT)
    code, said, seconds = end(process)
    assert (code, said) == (130, [f"error: interrupted from the keyboard: {stopping.NOTHING}"])
    assert seconds < 25, "it did not sleep to its end"


def test_what_does_not_come_back_is_ended_after_a_limit() -> None:
    body = """
    try:
        time.sleep(30)
    finally:
        time.sleep(30)
"""
    process = begin(body)
    began = time.monotonic()
    process.terminate()
    code, said, _ = end(process)
    assert (code, said) == (143, [f"error: told to stop by SIGTERM: {stopping.NOTHING}"])
    assert 2 <= time.monotonic() - began < 25, "LIMIT_S of the command is 2 s"


@pytest.mark.parametrize(
    ("apart_s", "said"), [(0.5, "interrupted again: left at once"), (0.0, "interrupted from the keyboard")]
)
def test_a_second_press_of_ctrl_c_means_now_but_an_echo_does_not(apart_s: float, said: str) -> None:
    process = begin("""
    try:
        time.sleep(30)
    finally:
        time.sleep(1)
""")
    process.send_signal(signal.SIGINT)
    time.sleep(apart_s)
    process.send_signal(signal.SIGINT)
    code, lines, seconds = end(process)
    assert (code, len(lines)) == (130, 1)
    assert lines[0].startswith(f"error: {said}")
    assert seconds < 25, "it did not sleep to its end"


def test_an_import_is_not_interrupted_but_ended(tmp_path: Path) -> None:
    """Native modules abort the process when something is raised while they are imported."""
    lines = ["import time", "try:", "    print('importing', flush=True)", "    time.sleep(30)"]
    lines += ["except BaseException:", "    raise SystemExit(9)"]
    (tmp_path / "slow.py").write_text("\n".join(lines))
    process = begin(f"sys.path.insert(0, {str(tmp_path)!r}); import slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.terminate()
    assert end(process)[:2] == (143, [f"error: told to stop by SIGTERM: {stopping.NOTHING}"])


def test_no_signal_changes_a_code_that_is_decided() -> None:
    process = begin("import atexit; atexit.register(time.sleep, 2); return 3")
    time.sleep(1)
    process.terminate()
    assert end(process)[:2] == (3, [])


def test_what_nohup_ignores_stays_ignored() -> None:
    code = COMMAND.replace("{body}", READY + "time.sleep(1)").replace("import os", "import os", 1)
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{code}"
    process = subprocess.Popen([sys.executable, "-c", ignoring], cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "in it\n"]
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    process.stdout.close()
