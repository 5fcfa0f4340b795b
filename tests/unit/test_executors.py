# SPDX-License-Identifier: Apache-2.0
"""The engine of a job and its workers: parts made once, errors, workers that die, waits that have a limit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from preprocessing.base import atomic, stopping
from preprocessing.base.errors import DataError, UserError
from preprocessing.config import ExecutorConfig
from preprocessing.job import engine, executors
from preprocessing.job.executors import Workers, available_cores, workers


def square(number: int) -> int:
    if number == 13:
        raise DataError("x.csv: row 13: unlucky")
    return number * number


def process_of(number: int) -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def be_killed(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stand_still(number: int) -> int:
    """The worker that has task 1 is stopped for good; the others go on."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


def signalled(number: int) -> int:
    """Sends its own process every signal that asks a command to stop, and goes on."""
    for name in stopping.SIGNALS:
        os.kill(os.getpid(), getattr(signal, name))
    return number


@dataclass(frozen=True)
class Number:
    """What a part of these tests finds out."""

    rows: int


@dataclass(frozen=True)
class Squared(engine.Part[Number]):
    """Writes the square of a number into a file."""

    number: int

    result: ClassVar[type] = Number

    def make(self) -> tuple[Number, dict[str, str]]:
        path = self.root / f"{self.number}.txt"
        atomic.write_text(path, str(square(self.number)))
        return Number(self.number), {path.name: atomic.sha256_file(path)}


def squares(root: Path, key: str = "k") -> list[Squared]:
    return [Squared(key, root, root / f"{number}.json", 10, number) for number in range(6)]


def test_a_part_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A marker of another key, a file that changed or is gone, and a damaged marker mean that it is made again."""

    def made(key: str = "k") -> list[int]:
        done = dict(engine.run(squares(tmp_path, key), workers, engine.Progress("square", 60)))
        assert {part.number: found for part, found in done.items()} == {number: Number(number) for number in range(6)}
        return sorted(part.number for part in done if part in new)

    new: list[Squared] = []
    workers = Workers(60)
    make = Squared.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Squared, "make", lambda part: new.append(part) or make(part))
        assert made() == list(range(6))
        new.clear()
        assert made() == []
        assert "square: done in 0.0 s, 0 docs/s, 6 parts already done" in capsys.readouterr().err
        (tmp_path / "1.txt").write_text("2")
        (tmp_path / "2.txt").unlink()
        (tmp_path / "3.json").write_text("{")
        (tmp_path / "4.json").unlink()
        first = squares(tmp_path)[1]
        assert (engine.finished(first), engine.finished(first, verify=False)) == (None, Number(1))
        assert made() == [1, 2, 3, 4]
        new.clear()
        assert made("other") == list(range(6))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_parts_are_made_by_workers_too(tmp_path: Path) -> None:
    with workers(ExecutorConfig(workers=2)) as found:
        done = list(engine.run(iter(squares(tmp_path)), found, engine.Progress("square", 60)))
    assert sorted(number.rows for _, number in done) == list(range(6))
    assert [engine.finished(part) for part in squares(tmp_path)] == [Number(number) for number in range(6)]
    assert (tmp_path / "5.txt").read_text() == "25"


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.timeout(60)
def test_every_task_comes_back_once(number: int) -> None:
    ticks: list[int] = []
    with workers(ExecutorConfig(workers=number)) as found:
        results = dict(found.map(square, list(range(12)), what="test", tick=ticks.append))
        assert list(found.map(square, [], what="test")) == []
        alone = list(found.map(process_of, [1], what="test"))
        elsewhere = {process for _, process in found.map(process_of, range(3), what="test")}
    assert results == {value: value * value for value in range(12)}
    assert max(ticks) <= number
    assert alone == [(1, os.getpid())], "a single task needs no other process"
    assert (os.getpid() in elsewhere) == (number == 1)


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.timeout(60)
def test_what_a_task_raises_is_raised_here(number: int) -> None:
    with (
        pytest.raises(DataError, match=r"^x.csv: row 13: unlucky$"),
        workers(ExecutorConfig(workers=number)) as found,
    ):
        list(found.map(square, list(range(20)), what="test"))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_waiting_has_a_limit_and_says_for_what() -> None:
    begin = time.monotonic()
    with (
        pytest.raises(UserError, match=r"^encode: waited for 2 tasks on 2 workers, and none was finished within 2 s"),
        workers(ExecutorConfig(workers=2, timeout_s=2)) as found,
    ):
        list(found.map(sleep, [50, 50], what="encode"))
    assert time.monotonic() - begin < 40


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_is_named_with_the_signal() -> None:
    killed = r"^tokenize: workers died \(process \d+ by SIGKILL.*\); were they killed for their memory\?"
    with pytest.raises(UserError, match=killed), workers(ExecutorConfig(workers=2)) as found:
        list(found.map(be_killed, [1, 2, 3], what="tokenize"))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_stopped_worker_is_named_long_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "HELD_S", 3.0)
    named = r"^encode: a worker, process (\d+), T \(stopped\), has done nothing for \d+ s; .* kill -CONT \1, or end it"
    begin = time.monotonic()
    with pytest.raises(UserError, match=named), workers(ExecutorConfig(workers=2)) as found:
        list(found.map(stand_still, range(6), what="encode"))
    assert time.monotonic() - begin < 40


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_workers_that_all_do_nothing_are_noticed_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "IDLE_S", 2.0)
    with (
        pytest.raises(UserError, match=r"^encode: no worker has computed anything for 2 s; see what they wait for"),
        workers(ExecutorConfig(workers=2)) as found,
    ):
        list(found.map(sleep, [50, 50], what="encode"))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_stop_signals_are_for_the_parent_alone() -> None:
    with workers(ExecutorConfig(workers=2)) as found:
        assert dict(found.map(signalled, range(4), what="test")) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_work_begins_while_tasks_are_still_found() -> None:
    finished: list[float] = []

    def found_slowly() -> Iterator[int]:
        yield from range(3)
        deadline = time.monotonic() + 30
        while not finished and time.monotonic() < deadline:
            time.sleep(0.01)
        yield 3

    def note(number: int) -> int:
        finished.append(time.monotonic())
        return number

    with ThreadPoolExecutor(2) as pool:
        results = list(Workers(60, pool).map(note, found_slowly(), what="test"))
    assert sorted(results) == [(number, number) for number in range(4)]


def test_cores_are_those_of_the_affinity_mask() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available_cores() == len(before)
