# SPDX-License-Identifier: Apache-2.0
"""The meeting of launchers over real loopback sockets, one thread per machine; and the checks of their answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import RunConfig
from harness.launch import meeting
from harness.launch.meeting import Hello, MeetingError, Place
from harness.rundir.records import LAUNCH_ID, Ending, read_status, write_status
from preprocessing.base.errors import UserError
from tests.commands import free_port, wait_until

FACTS = {"--num_processes": 2, "optim.lr": "0.002", "seed": "0"}


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, rank, count) for rank in range(count)]


def meet(place: Place, facts: dict[str, Any] = FACTS, timeout_s: float = 20, problem: str = "") -> str:
    """The name of the start, or exit code and sentence."""
    hello = Hello(rank=place.rank, facts=facts, problem=problem, exit_code=3 if problem else 1)
    try:
        return meeting.meet(place, hello, f"start {place.rank}", timeout_s, lambda text: None)
    except UserError as error:
        return f"{error.exit_code}: {error}"


def all_meet(*calls: tuple[Any, ...]) -> list[str]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: meet(*call), calls))


def test_what_differs_is_said_on_both() -> None:
    zero, one = places(2)
    other = {**FACTS, "optim.lr": "0.01"}
    said = all_meet((zero,), (one, other))
    host = Hello(rank=0).host
    expected = f"2: optim.lr is 0.01 on machine 1 ({host}) and 0.002 on machine 0 ({host}): start the same command"
    assert [text.startswith(expected) for text in said] == [True, True]


def test_who_does_not_come_is_named_in_time() -> None:
    zero, one, _ = places(3)
    said = all_meet((zero, FACTS, 1), (one, FACTS, 1))
    expected = f"1: machine 2 of 3 did not come to 127.0.0.1:{zero.port} within 1 s; start the same command there"
    assert [text.startswith(expected) for text in said] == [True, True]


def test_where_several_machines_meet() -> None:
    whole = {"num_machines": 2, "num_processes": 4, "machine_rank": 1, "main_process_ip": "a", "main_process_port": 9}
    whole["rdzv_backend"] = "static"
    assert meeting.place_of(SimpleNamespace(**whole)) == Place("a", 9, 1, 2)
    assert meeting.place_of(SimpleNamespace(**whole | {"num_machines": 1})) is None


def test_a_machine_that_cannot_train_says_so_on_all() -> None:
    zero, one = places(2)
    said = all_meet((zero,), (one, {}, 20, "data/mine: no such directory"))
    assert said == [f"3: machine 1 ({Hello(rank=1).host}) cannot train: data/mine: no such directory"] * 2


def test_a_taken_port_is_a_sentence() -> None:
    zero, _ = places(2)
    with socket.create_server(("", zero.port)):
        assert meet(zero).startswith(f"2: main_process_port: {zero.port} is taken by another program on ")


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
    return meeting.name_start(place, config, {}, lambda text: None, "mine", attempt)


def test_why_no_rank_was_started_is_in_the_status_but_of_a_run_that_has_finished(alone: Place, tmp_path: Path) -> None:
    write_status(tmp_path, Ending("finished", 9))
    with pytest.raises(MeetingError, match=r"machine 1 of 2 did not come to 127\.0\.0\.1"):
        start(alone, tmp_path)
    assert (read_status(tmp_path) or {})["state"] == "finished"
    write_status(tmp_path, Ending("failed", 9))
    with pytest.raises(MeetingError):
        start(alone, tmp_path, attempt=1)
    status = read_status(tmp_path) or {}
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
meeting.name_start(place, RunConfig(run=sys.argv[2]), {}, lambda text: print(text, flush=True), "mine", 1)
"""


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_stop_signal_ends_the_wait_and_asks_for_another_start(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(free_port()), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert "waits up to 1200 s" in process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 85
    status = read_status(tmp_path / "run") or {}
    assert (status["state"], status["exit_code"], status["reason"]) == ("preempted", 85, "SIGTERM received")
