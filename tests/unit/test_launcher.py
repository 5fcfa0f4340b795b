# SPDX-License-Identifier: Apache-2.0
"""The launcher: accelerate's options, its report of ranks that exited, the status, its cleanup, and how launchers of
several machines meet, over real loopback sockets.
"""

from __future__ import annotations

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import Choice, RunConfig
from harness.launch import launcher, meeting
from harness.launch.launcher import LOST_PAGES, Failure, describe_failure
from harness.launch.meeting import Place
from harness.launch.options import TrainConfig, accelerate_arguments, free_port
from harness.ranks import devices
from harness.rundir.records import LAUNCH_ID, Ending, State, read_status, write_status
from preprocessing.base import cli
from preprocessing.base.errors import UserError
from tests.commands import start_python, wait_until
from tests.datasets import write_dataset


def fell(**ranks: tuple[int, float, str, bool]) -> Failure:
    """The launcher's report of ranks with these exit codes, times and last words, which may follow others."""
    error = RuntimeError()
    error.failures = {}
    for rank, (code, second, message, follows) in ranks.items():
        words = {"message": message, "timestamp": second, "follows": follows} if message else {}
        facts = SimpleNamespace(timestamp=int(second), exitcode=code, error_file_data=words)
        error.failures[int(rank[1:])] = facts
    return describe_failure(error)


BUG, ABORTED = "rank 1: KeyError: 'mood'", "rank 0 was killed by SIGABRT"
WAITED = "rank 0 at step 3 waited for the gradients"


@pytest.mark.parametrize(
    ("zero", "one", "sentence", "follows"),
    [
        ((1, 5.1, WAITED, True), (1, 5.9, BUG, False), BUG, False),
        ((1, 5.1, WAITED, True), (-15, 5.0, "", False), WAITED, True),
        ((1, 5.1, WAITED, True), (-9, 5.0, "", False), "rank 1 was killed by SIGKILL", False),
        ((1, 5.9, "later", False), (1, 5.2, "sooner", False), "sooner", False),
        ((-6, 5.0, "", False), (1, 5.9, "", False), "rank 1 ended with exit code 1", False),
        ((-6, 5.9, "", False), (1, 5.1, "rank 1 waited for the gradients", True), ABORTED, False),
    ],
)
def test_the_cause_is_what_a_rank_itself_said_or_that_which_left_first(
    zero: tuple[int, float, str, bool], one: tuple[int, float, str, bool], sentence: str, follows: bool
) -> None:
    """When a rank dies, NCCL's watchdog aborts the others, often before torch's agent checks."""
    found = fell(r0=zero, r1=one)
    assert (found.code, found.sentence, found.follows) == (1, sentence, follows)


def test_a_rank_of_another_code_and_one_that_lost_pages_end_with_3() -> None:
    terminated = (-15, 5.0, "", False)
    assert fell(r0=terminated, r1=(3, 5.0, "", False)) == Failure(3, "rank 1 ended with exit code 3", said=True)
    assert fell(r0=(-7, 5.0, "", False), r1=terminated) == Failure(3, f"rank 0 was killed by SIGBUS: {LOST_PAGES}")


KILLED, ENDED = Failure(1, "rank 1 was killed by SIGKILL"), Failure(1, "rank 0 ended with exit code 1")
LATE = Failure(1, "rank 1 waited for the gradients", said=True, follows=True)


@pytest.mark.parametrize(
    ("state", "code", "failure", "expected", "reason"),
    [
        ("finished", 0, None, 0, WAITED),
        ("failed", 3, ENDED, 3, WAITED),
        ("running", 0, KILLED, 1, KILLED.sentence),
        ("finished", 0, KILLED, 1, KILLED.sentence),
        ("preempted", 85, Failure(1, "the launcher stopped"), 85, WAITED),
        ("failed", 1, Failure(1, BUG, said=True), 1, BUG),
        ("failed", 1, LATE, 1, WAITED),
        ("running", 0, LATE, 1, LATE.sentence),
    ],
)
def test_the_status_has_the_code_and_the_cause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    code: int,
    failure: Failure | None,
    expected: int,
    reason: str,
) -> None:
    monkeypatch.setenv(LAUNCH_ID, "mine")
    write_status(tmp_path, Ending(state, 7, code, WAITED))
    assert launcher.outcome(tmp_path, "mine", failure) == expected
    assert read_status(tmp_path)["reason"] == reason


@pytest.mark.parametrize(
    ("words", "several"),
    [
        ("--cpu --num_processes=2", True),
        ("--cpu --num_processes 2 --config_file cpu", True),
        ("--cpu", False),
    ],
)
def test_cpu_stands_for_several_processes_too(words: str, several: bool) -> None:
    given, config = accelerate_arguments(cli.parse(TrainConfig, words.split(), prog="train"), RunConfig())
    assert (given.multi_gpu, given.cpu, config.device) == (several, False, "cpu")


@pytest.mark.parametrize(
    ("words", "started"),
    [
        ("", (2, True, "the reason")),
        ("--num_processes 1", (1, False, None)),
        ("--threads 2", (1, False, None)),
        ("--config_file cpu --cpu", (2, True, None)),
    ],
)
def test_cores_get_processes_where_the_user_left_their_number_open(
    words: str, started: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", {"train": 20, "validation": 10})
    begun = list[tuple[Any, ...]]()

    def begin(config: RunConfig, arguments: Any, name: Any) -> int:
        begun.append((arguments.num_processes, arguments.multi_gpu, os.environ.get(devices.CHOSEN)))
        return 0

    monkeypatch.setattr(launcher, "run_with_restarts", begin)
    monkeypatch.setattr(launcher, "processes_on_cores", lambda config, cores: Choice("2", "the reason"))
    monkeypatch.delenv(devices.OMP, raising=False)
    monkeypatch.setenv(devices.CHOSEN, "that of an earlier training")
    keys = f"--data {tmp_path}/data --run {tmp_path}/run --device cpu --quiet {words}"
    assert launcher.main(cli.parse(TrainConfig, keys.split(), prog="train")) == 0
    assert begun == [started]


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, rank, count) for rank in range(count)]


def meet(place: Place, timeout_s: float = 20) -> str:
    """The name of the start, or exit code and sentence."""
    try:
        return meeting.meet(place, f"start {place.rank}", timeout_s, lambda text: None)
    except UserError as error:
        return f"{error.exit_code}: {error}"


def all_meet(*calls: tuple[Any, ...]) -> list[str]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: meet(*call), calls))


def test_who_does_not_come_is_named_in_time() -> None:
    zero, one, _ = places(3)
    said = all_meet((zero, 1), (one, 1))
    expected = f"1: machine 2 of 3 did not come to 127.0.0.1:{zero.port} within 1 s; start the same command there"
    assert [text.startswith(expected) for text in said] == [True, True]


def test_a_taken_port_is_a_sentence_on_both() -> None:
    zero, one = places(2)
    with socket.create_server(("", zero.port)):
        assert meet(zero).startswith(f"2: main_process_port: {zero.port} is taken by another program on ")
        assert meet(one, 1).startswith(f"1: machine 1 of 2: machine 0 did not answer at 127.0.0.1:{zero.port} within 1")


def test_three_meet_past_a_stranger_at_the_port() -> None:
    zero, one, two = places(3)
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(meet, place) for place in (zero, one)]
        wait_until(lambda: visited(zero.port), 15)
        assert [meet(two), *(one.result() for one in waits)] == ["start 0"] * 3
    with socket.create_server(("", zero.port)):
        pass  # the port is free at once


def visited(port: int) -> bool:
    """Whether a port is open; sends a browser's request to it."""
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\n")
        return True
    return False


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv(LAUNCH_ID, "before")
    return places(2)[0]


def start(place: Place, run: Path, attempt: int = 0) -> str:
    config = RunConfig(run=str(run), timeout_s=1)
    return meeting.name_start(place, config, lambda text: None, "mine", attempt)


def test_why_no_rank_was_started_is_in_the_status_but_of_a_run_that_has_finished(alone: Place, tmp_path: Path) -> None:
    write_status(tmp_path, Ending("finished", 9))
    with pytest.raises(UserError, match=r"machine 1 of 2 did not come to 127\.0\.0\.1"):
        start(alone, tmp_path)
    assert read_status(tmp_path)["state"] == "finished"
    write_status(tmp_path, Ending("failed", 9))
    with pytest.raises(UserError):
        start(alone, tmp_path, attempt=1)
    status = read_status(tmp_path)
    assert (status["state"], status["step"], status["launch"]) == ("failed", 9, "mine-1")
    assert status["reason"].startswith("machine 1 of 2 did not come to 127.0.0.1:")


WAITING = """
import sys
from pathlib import Path
from harness.launch.stop import STOP
STOP.begin()
from harness.config import RunConfig
from harness.launch import meeting
place = meeting.Place("127.0.0.1", int(sys.argv[1]), 0, 2)
meeting.name_start(place, RunConfig(run=sys.argv[2]), lambda text: print(text, flush=True), "mine", 1)
"""


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_stop_signal_ends_the_wait_and_asks_for_another_start(tmp_path: Path) -> None:
    with start_python("-c", WAITING, free_port(), tmp_path / "run", stdout=subprocess.PIPE) as process:
        assert "waits up to 1200 s" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 85
