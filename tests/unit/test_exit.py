# SPDX-License-Identifier: Apache-2.0
"""A rank whose start is refused ends a launcher that would print a traceback, and no other program."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

from harness.ranks import exit as ending
from harness.rundir.records import LAUNCH_ID

BARE = ["/venv/bin/python", "/venv/bin/accelerate", "launch", "-m", "harness.evaluate"]


@pytest.mark.parametrize(
    ("words", "bare"),
    [
        (BARE, True),
        (["python", "-m", "accelerate.commands.launch", "--cpu", "-m", "harness.train"], True),
        (["python", "-u", "-m", "accelerate.commands.accelerate_cli", "launch"], True),
        (["/venv/bin/python3.12", "/venv/bin/torchrun", "--nproc_per_node", "2"], True),
        (["python", "-m", "torch.distributed.run", "-m", "harness.train"], True),
        (["accelerate-launch", "-m", "harness.train"], True),
        (["python", "-m", "harness", "launch", "--epochs", "2"], False),
        (["bash", "-c", "accelerate launch -m harness.train"], False),
        (["python", "accelerated.py"], False),
        ([], False),
    ],
)
def test_which_program_is_a_bare_launcher(words: list[str], bare: bool) -> None:
    assert ending.is_bare_launcher(words) is bare


class Family:
    """A launcher with two ranks, of which one is this process; notes the signals that each is sent."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.sent: list[tuple[str, int]] = []

    def process(self, pid: int) -> Any:
        assert pid == os.getppid()
        family = self

        class Member:
            def __init__(self, name: str, pid: int) -> None:
                self.name, self.pid = name, pid

            def cmdline(self) -> list[str]:
                return family.words

            def children(self) -> list[Member]:
                return [Member("this rank", os.getpid()), Member("other rank", -1)]

            def terminate(self) -> None:
                family.sent.append((self.name, signal.SIGTERM))

            def kill(self) -> None:
                family.sent.append((self.name, signal.SIGKILL))

            def send_signal(self, number: int) -> None:
                family.sent.append((self.name, number))

        return Member("launcher", pid)


def signals(monkeypatch: pytest.MonkeyPatch, words: list[str], **environment: str) -> list[tuple[str, int]]:
    """What ``dismiss_launcher`` sends to whom under a parent with this command line."""
    for name in (LAUNCH_ID, "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    family = Family(words)
    monkeypatch.setattr(psutil, "Process", family.process)
    monkeypatch.setattr(psutil, "wait_procs", lambda members, timeout: ([], members))  # none of them hears
    ending.dismiss_launcher()
    return family.sent


def test_a_bare_launcher_is_ended_with_the_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [("launcher", signal.SIGUSR1), ("other rank", signal.SIGTERM), ("other rank", signal.SIGKILL)]
    assert signals(monkeypatch, BARE) == expected
    assert signals(monkeypatch, BARE, GROUP_WORLD_SIZE="1") == expected


@pytest.mark.parametrize(
    ("words", "environment"),
    [(["python", "train_everything.py"], {}), (BARE, {LAUNCH_ID: "abc"}), (BARE, {"GROUP_WORLD_SIZE": "2"})],
)
def test_nobody_else_is(monkeypatch: pytest.MonkeyPatch, words: list[str], environment: dict[str, str]) -> None:
    """Not another parent, not padless's own launcher, not one of several machines, whose peers would wait."""
    assert signals(monkeypatch, words, **environment) == []
