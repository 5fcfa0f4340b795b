# SPDX-License-Identifier: Apache-2.0
"""How many threads a process computes with: the key, then the user's OMP_NUM_THREADS, then a share of the cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from harness.__main__ import main
from harness.config import RunConfig
from harness.ranks import threads
from harness.ranks.precision import configure_threads
from preprocessing.base.errors import ConfigError
from tests.datasets import write_dataset

SHARE = "this process's share of the cores"
LAUNCHED = ("LOCAL_RANK", "RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", threads.TOLD, threads.VARIABLE)


@pytest.fixture(autouse=True)
def nobody_said_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("asked", "users", "found"),
    [
        (None, None, (4, SHARE)),
        (None, 3, (3, "as OMP_NUM_THREADS says")),
        (1, 3, (1, "asked for")),
        (16, None, (16, "asked for")),
    ],
)
def test_who_decides(asked: int | None, users: int | None, found: tuple[int, str]) -> None:
    assert threads.choose(asked, users, cores=8, processes=2) == found


def test_more_processes_than_cores() -> None:
    assert threads.choose(None, None, cores=2, processes=8) == (1, SHARE)


@pytest.mark.parametrize(
    ("text", "found"), [("2", 2), (" 4 ", 4), ("3,2", 3), ("0", None), ("", None), ("x", None), (None, None)]
)
def test_a_number_of_threads(text: str | None, found: int | None) -> None:
    assert threads.number(text) == found


def test_without_a_launcher_the_environment_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.said_here() is None
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert threads.said_here() == 3


def test_a_number_that_the_launcher_made_up_is_not_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's launcher sets OMP_NUM_THREADS=1 for its ranks where the user has not set it."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv(threads.VARIABLE, "1")
    for environment, found in (({}, None), ({threads.VARIABLE: "5"}, 5)):
        monkeypatch.setattr(threads, "parent", lambda environment=environment: (["accelerate", "launch"], environment))
        assert threads.said_here() == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["launch", "--num_cpu_threads_per_process", "2", "-m", "harness.train"], 2),
        (["launch", "--num-cpu-threads-per-process=6"], 6),
        (["launch", "--num_processes", "2"], 7),
    ],
)
def test_accelerates_option_comes_before_the_variable(words: list[str], found: int) -> None:
    assert threads.said_to(words, {threads.VARIABLE: "7"}) == found


@pytest.mark.parametrize(
    ("option", "users", "told", "found"), [(None, None, "", None), (None, "3", "3", 3), (2, "3", "2", 2)]
)
def test_the_launcher_tells_its_ranks(
    monkeypatch: pytest.MonkeyPatch, option: int | None, users: str | None, told: str, found: int | None
) -> None:
    monkeypatch.setenv(threads.TOLD, "9")  # of a launch before this one
    if users is not None:
        monkeypatch.setenv(threads.VARIABLE, users)
    threads.tell(option)
    assert os.environ[threads.TOLD] == told
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv(threads.VARIABLE, "1")
    assert threads.said_here() == found


def test_the_parent_can_be_read() -> None:
    words, environment = threads.parent()
    assert words
    assert "PATH" in environment


def test_torch_computes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv(threads.VARIABLE, "3")
        assert str(configure_threads("cpu")) == "3: as OMP_NUM_THREADS says"
        assert torch.get_num_threads() == 3
        assert str(configure_threads("cpu", 2)) == "2: asked for"
        assert torch.get_num_threads() == 2
        assert configure_threads("cuda").value == "2"
        assert str(configure_threads("cuda", 1)) == "1: asked for"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_plan_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, {"train": 100, "validation": 10})
    monkeypatch.setenv(threads.VARIABLE, "3")
    main(["plan", "--data", str(tmp_path)])
    main(["plan", "--data", str(tmp_path), "--threads", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("threads ")]
    assert lines == ["threads    3 each on a CPU: as OMP_NUM_THREADS says", "threads    1 each on a CPU: asked for"]


def test_no_threads_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads: 0 is out of range: expected from 1 to 4,096, or null"):
        RunConfig(threads=0)
