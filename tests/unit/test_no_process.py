# SPDX-License-Identifier: Apache-2.0
"""A test that is not marked ``processes`` cannot start one, by whichever way; one that is leaves none behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT, run_command, run_module


def fork() -> int:
    """Looked up when it is called, not when this file is read."""
    return os.fork()


WAYS: dict[str, Callable[[], object]] = {
    "a command": lambda: subprocess.run(["true"], check=True),
    "a command of padless": lambda: run_module("harness", "--help"),
    "a worker": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    "a fork": fork,
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_refused_with_the_name_of_the_mark(way: str) -> None:
    with pytest.raises(pytest.fail.Exception, match="starts a process: mark it processes"):
        WAYS[way]()


@pytest.mark.processes
def test_with_the_mark_it_runs() -> None:
    assert subprocess.run(["printf", "ok"], capture_output=True, check=True).stdout == b"ok"


INNER = """
import signal, subprocess, sys
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()

@pytest.mark.processes
def test_that_fails(server):
    shell = "(setsid sleep 60 & echo $!); echo $$; exec sleep 60"  # an orphan in a session of its own, and a child
    child = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, text=True)
    Path("left").write_text(child.stdout.readline() + child.stdout.readline())
    raise ValueError

@pytest.mark.processes
def test_that_comes_after_it(server):
    assert server.poll() is None
    ask = "import signal as s; print(*(s.getsignal(n) is s.SIG_IGN for n in (s.SIGINT, s.SIGHUP, s.SIGQUIT)))"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True).stdout == b"False False False\\n"
"""


@pytest.mark.processes
def test_a_failing_test_leaves_no_process_and_no_shell_makes_programs_ignore_signals(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    pytest_here = f"{sys.executable} -m pytest -p tests.conftest -c {ROOT / 'pyproject.toml'} --rootdir . test_inner.py"
    ignoring = ["sh", "-c", f"trap '' INT HUP QUIT; exec {pytest_here} -p no:cacheprovider -o filterwarnings=default"]
    result = run_command(ignoring, 100, {}, cwd=tmp_path)
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
    left = [int(pid) for pid in (tmp_path / "left").read_text().split()]
    assert [pid for pid in left if psutil.pid_exists(pid)] == []
