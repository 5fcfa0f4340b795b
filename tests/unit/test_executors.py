# SPDX-License-Identifier: Apache-2.0
"""Whoever does the work: results, errors, workers that die, and waits that have a limit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from preprocessing.base import machine, stopping
from preprocessing.base.errors import DataError, UserError
from preprocessing.config import ExecutorConfig
from preprocessing.job import executors
from preprocessing.job.executors import LocalPulse, Workers, available_cores, workers


def square(number: int) -> int:
    if number == 13:
        raise DataError("x.csv: row 13: unlucky")
    return number * number


def die(number: int) -> None:
    os._exit(9)


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


class Fixed:
    """A process that is there for the sake of its number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid


def silent(alive: int) -> None:
    pass


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.timeout(60)
def test_every_task_comes_back_once(number: int) -> None:
    ticks: list[int] = []
    with workers(ExecutorConfig(workers=number)) as found:
        results = dict(found.map(square, list(range(12)), what="test", tick=ticks.append))
        assert list(found.map(square, [], what="test", tick=silent)) == []
    assert results == {value: value * value for value in range(12)}
    assert max(ticks) <= number


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.timeout(60)
def test_what_a_task_raises_is_raised_here(number: int) -> None:
    with (
        pytest.raises(DataError, match=r"^x.csv: row 13: unlucky$"),
        workers(ExecutorConfig(workers=number)) as found,
    ):
        list(found.map(square, list(range(20)), what="test", tick=silent))


@pytest.mark.processes
def test_one_task_is_done_here_and_several_elsewhere() -> None:
    with workers(ExecutorConfig(workers=2)) as found:
        assert list(found.map(process_of, [1], what="test", tick=silent)) == [(1, os.getpid())]
        elsewhere = {process for _, process in found.map(process_of, [1, 2, 3], what="test", tick=silent)}
        assert os.getpid() not in elsewhere


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_worker_that_dies_is_a_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"^tokenize: workers died; were they killed for their memory\?"),
        workers(ExecutorConfig(workers=2)) as found,
    ):
        list(found.map(die, [1, 2, 3], what="tokenize", tick=silent))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_waiting_has_a_limit_and_says_for_what() -> None:
    begin = time.monotonic()
    with (
        pytest.raises(UserError, match=r"^encode: waited for 2 tasks on 2 workers, and none was finished within 2 s"),
        workers(ExecutorConfig(workers=2, timeout_s=2)) as found,
    ):
        list(found.map(sleep, [50, 50], what="encode", tick=silent))
    assert time.monotonic() - begin < 40


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_is_named_with_the_signal() -> None:
    killed = r"^tokenize: workers died \(process \d+ by SIGKILL.*\); were they killed for their memory\?"
    with pytest.raises(UserError, match=killed), workers(ExecutorConfig(workers=2)) as found:
        list(found.map(be_killed, [1, 2, 3], what="tokenize", tick=silent))


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_stopped_worker_is_named_long_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "HELD_S", 3.0)
    named = r"^encode: a worker, process (\d+), T \(stopped\), has done nothing for \d+ s; .* kill -CONT \1, or end it"
    begin = time.monotonic()
    with pytest.raises(UserError, match=named), workers(ExecutorConfig(workers=2)) as found:
        list(found.map(stand_still, range(6), what="encode", tick=silent))
    assert time.monotonic() - begin < 40


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_workers_that_all_do_nothing_are_noticed_before_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "IDLE_S", 2.0)
    with (
        pytest.raises(UserError, match=r"^encode: no worker has computed anything for 2 s; see what they wait for"),
        workers(ExecutorConfig(workers=2)) as found,
    ):
        list(found.map(sleep, [50, 50], what="encode", tick=silent))


def test_how_long_is_too_long_depends_on_the_slowest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(machine, "cpu_ticks", lambda pid: next(ticks))
    monkeypatch.setattr(machine, "state", lambda pid: "S")
    told = LocalPulse(lambda: [Fixed(1), Fixed(2)])
    assert told.look(50.0, finished=True) is None
    monkeypatch.setattr(machine, "state", lambda pid: "T" if pid == 1 else "S")
    assert [told.look(40.0, finished=False) for _ in range(3)] == [None, None, None], "3 times 50 s"
    assert told.look(40.0, finished=False) == (
        "a worker, process 1, T (stopped), has done nothing for 160 s; let it go on with kill -CONT 1, or end it, "
        "and run the same command to continue"
    )


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_stop_signals_are_for_the_parent_alone() -> None:
    with workers(ExecutorConfig(workers=2)) as found:
        assert dict(found.map(signalled, range(4), what="test", tick=silent)) == {0: 0, 1: 1, 2: 2, 3: 3}


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
        results = list(Workers(60, pool).map(note, found_slowly(), what="test", tick=silent))
    assert sorted(results) == [(number, number) for number in range(4)]


def test_anything_that_speaks_concurrent_futures() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = Workers(60, pool)
        assert sorted(found.map(square, list(range(9)), what="test", tick=silent))[-1] == (8, 64)


def test_cores_are_those_of_the_affinity_mask() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert available_cores() == len(before)
