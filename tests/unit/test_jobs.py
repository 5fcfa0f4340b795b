# SPDX-License-Identifier: Apache-2.0
"""The engine of a job and its workers: parts made once, errors, workers that die, waits that have a limit."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from padless.core import atomic, jobs, signals
from padless.core.errors import DataError, UserError
from padless.core.jobs import ExecutorConfig, Workers, open_workers


def square(number: int) -> int:
    if number == 13:
        raise DataError("x.csv: row 13: unlucky")
    return number * number


def process_number(_: int) -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def be_killed(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def send_all_signals(number: int) -> int:
    """Sends all stop signals to its own process, and continues."""
    for stop_signal in signals.SIGNALS:
        os.kill(os.getpid(), stop_signal)
    return number


@dataclass(frozen=True)
class Squared(jobs.Task[int]):
    """Writes the square of a number into a file."""

    number: int

    result: ClassVar[type] = int

    def run(self) -> tuple[int, dict[str, str]]:
        path = self.root / f"{self.number}.txt"
        atomic.write_text(path, str(square(self.number)))
        return self.number, {path.name: atomic.sha256_file(path)}


def squares(root: Path, key: str = "k") -> list[Squared]:
    return [Squared(key, root, root / f"{number}.json", 10, number) for number in range(6)]


def test_a_part_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A part is made again if its marker has another key or is damaged, or its file has changed or is missing."""

    def make_parts(key: str = "k") -> list[int]:
        result_by_part = dict(jobs.run_tasks("square", tmp_path, squares(tmp_path, key), workers))
        results = sorted((part.number, result) for part, result in result_by_part.items())
        assert results == [(number, number) for number in range(6)]
        return sorted(part.number for part in result_by_part if part in new)

    new = []
    workers = Workers()
    make = Squared.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Squared, "run", lambda part: new.append(part) or make(part))
        assert make_parts() == list(range(6))
        new.clear()
        assert make_parts() == []
        assert "6 parts already done" in capsys.readouterr().err
        (tmp_path / "1.txt").write_text("2")
        (tmp_path / "2.txt").unlink()
        (tmp_path / "3.json").write_text("{")
        (tmp_path / "4.json").unlink()
        assert make_parts() == [1, 2, 3, 4]
        new.clear()
        assert make_parts("other") == list(range(6))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_every_task_comes_back_once() -> None:
    with open_workers(ExecutorConfig(workers=2)) as pool:
        for numbers in (range(12), range(5, 6)):  # by processes; here
            assert dict(pool.map(square, numbers, step="test")) == {number: number**2 for number in numbers}
        assert list(pool.map(process_number, [1], step="test")) == [(1, os.getpid())], "a single task needs no process"
        with pytest.raises(DataError, match=r"^x.csv: row 13: unlucky$"):
            list(pool.map(square, list(range(20)), step="test"))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_waiting_has_a_limit_and_a_killed_worker_a_sentence() -> None:
    no_result = r"^encode: none of 2 tasks was finished within 1 s"
    with pytest.raises(UserError, match=no_result), open_workers(ExecutorConfig(workers=2, timeout_s=1)) as pool:
        list(pool.map(sleep, [50, 50], step="encode"))
    worker_death = r"^tokenize: workers died; were they killed for their memory\?"
    with pytest.raises(UserError, match=worker_death), open_workers(ExecutorConfig(workers=2)) as pool:
        list(pool.map(be_killed, [1, 2, 3], step="tokenize"))


def write_slowly(folder: Path) -> int:
    for number in range(8):
        time.sleep(0.5)
        (folder / f"{os.getpid()}-{number}").touch()
    return number


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_long_task_that_makes_files_goes_on(tmp_path: Path) -> None:
    with open_workers(ExecutorConfig(workers=2, timeout_s=3)) as workers:
        results = [result for _, result in workers.map(write_slowly, [tmp_path] * 2, step="read", folder=tmp_path)]
    assert results == [7, 7]


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_stop_signals_are_for_the_parent_alone() -> None:
    with open_workers(ExecutorConfig(workers=2)) as pool:
        assert dict(pool.map(send_all_signals, range(4), step="test")) == {0: 0, 1: 1, 2: 2, 3: 3}
