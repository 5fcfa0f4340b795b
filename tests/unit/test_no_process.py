# SPDX-License-Identifier: Apache-2.0
"""A test that is not marked ``processes`` cannot start one, by whichever way; one that is leaves no launcher behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable

import psutil
import pytest

from tests import runs
from tests.commands import run_module


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


@pytest.mark.processes
def test_what_a_test_has_launched_and_left_is_ended_with_its_children() -> None:
    with subprocess.Popen(["bash", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        rank = psutil.Process(int(launcher.stdout.readline()))
        done = subprocess.Popen(["true"], text=True)
        assert done.wait(20) == 0
        runs.LAUNCHED.extend([launcher, done])
        runs.end_what_was_launched()
        assert [launcher.poll() is None, rank.is_running()] == [False, False]
        assert runs.LAUNCHED == []
