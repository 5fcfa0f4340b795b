# SPDX-License-Identifier: Apache-2.0
"""Launchers meet: over real sockets on the loopback, one thread for each machine; and what is made of what they say."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import RunConfig
from harness.launch import machines, roll_call
from harness.launch.roll_call import Hello, MeetingError, Place, judge
from harness.rundir.records import LAUNCH_ID, read_status, write_status
from preprocessing.base.errors import ConfigError, DataError, UserError
from tests.commands import free_port

FACTS = {"--num_processes": 2, "configuration": {"optim.lr": "0.002", "seed": "0"}}


def places(count: int) -> list[Place]:
    port = free_port()
    return [Place("127.0.0.1", port, rank, count) for rank in range(count)]


def meet(place: Place, facts: dict[str, Any] = FACTS, timeout_s: float = 20) -> str:
    """The name of the start, or the sentence."""
    try:
        return roll_call.meet(place, Hello(place.rank, facts), f"start {place.rank}", timeout_s, lambda text: None)
    except UserError as error:
        return f"{error.exit_code}: {error}"


def all_meet(*calls: tuple[Any, ...]) -> list[str]:
    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(lambda call: meet(*call), calls))


def test_all_get_the_name_of_machine_0s_start_and_the_port_is_free_at_once() -> None:
    three = places(3)
    assert all_meet(*((place,) for place in three)) == ["start 0"] * 3
    with socket.create_server(("", three[0].port)):
        pass


def test_what_differs_is_said_on_both() -> None:
    zero, one = places(2)
    other = {**FACTS, "configuration": {"optim.lr": "0.01", "seed": "0"}}
    said = all_meet((zero,), (one, other))
    host = Hello(0).host
    expected = f"2: optim.lr is 0.01 on machine 1 ({host}) and 0.002 on machine 0 ({host}): start the same command"
    assert [text.startswith(expected) for text in said] == [True, True]


def test_who_does_not_come_is_named_in_time() -> None:
    zero, one, _ = places(3)
    started = time.monotonic()
    said = all_meet((zero, FACTS, 1.5), (one, FACTS, 1.5))
    assert time.monotonic() - started < 60
    expected = f"1: machine 2 of 3 did not come to 127.0.0.1:{zero.port} within 2 s; start the same command there"
    assert [text.startswith(expected) for text in said] == [True, True]
    alone = meet(places(2)[1], FACTS, 1)
    assert alone.startswith("1: machine 1 of 2: machine 0 did not answer at 127.0.0.1:")
    assert "within 1 s (Connection refused)" in alone


def test_a_machine_that_cannot_train_says_so_on_all() -> None:
    zero, one = places(2)
    with ThreadPoolExecutor(2) as threads:
        waits = threads.submit(meet, zero)
        threads.submit(roll_call.excuse, one, DataError("data/mine: no such directory"), 20)
    assert waits.result() == f"3: machine 1 ({Hello(1).host}) cannot train: data/mine: no such directory"


def test_a_taken_port_is_a_sentence() -> None:
    zero, _ = places(2)
    with socket.create_server(("", zero.port)), pytest.raises(ConfigError, match=f"port: {zero.port} is taken by"):
        roll_call.meet(zero, Hello(0), "", 5, lambda text: None)


def test_strangers_at_the_port_are_turned_away() -> None:
    zero, one = places(2)

    def disturb() -> None:
        deadline = time.monotonic() + 15
        for noise in (b"GET / HTTP/1.1\n", b"[" * 100_000 + b"\n", b'["padless roll call 1", {"rank": "1"}]\n', b""):
            while time.monotonic() < deadline:
                try:
                    with socket.create_connection(("127.0.0.1", zero.port)) as stranger:
                        stranger.sendall(noise)
                        stranger.shutdown(socket.SHUT_WR)
                        assert stranger.recv(1) == b""
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)

    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(meet, zero)
        disturb()
        assert meet(one) == "start 0"
        assert waits.result() == "start 0"


def test_another_program_at_the_port_is_not_believed() -> None:
    _, one = places(2)
    with socket.create_server(("127.0.0.1", one.port)) as server:

        def answer() -> None:
            server.settimeout(10)
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert "within 1 s (another program listens there)" in meet(one, FACTS, 1)


def test_a_machine_that_is_started_again_takes_its_own_place_and_a_double_is_refused() -> None:
    zero, one, two = places(3)
    with ThreadPoolExecutor(3) as threads:
        waits = threads.submit(meet, zero)
        time.sleep(0.3)
        with socket.create_connection(("127.0.0.1", zero.port)) as gone:
            roll_call.send(gone, Hello(1, FACTS, clock=time.time()))
        again = threads.submit(meet, one)
        time.sleep(1)  # it is in the place of the first one before all are there
        assert meet(two) == waits.result() == again.result() == "start 0"
    zero, one, _ = places(3)
    said = all_meet((zero,), (one,), (one,))
    assert [text.startswith("1: two machines came as 1, ") for text in said] == [True] * 3


def test_clocks_that_differ_are_said_and_do_not_matter() -> None:
    place = Place("10.0.0.1", 29500, 0, 3)
    hellos = [Hello(0, host="a"), Hello(1, host="b", clock=3600.0), Hello(2, host="c", clock=-59.0)]
    answer = judge(place, hellos, "mine", 20)
    assert answer.refusal == ""
    assert answer.notes == (
        "the clock of machine 1 (b) is 3,600 s ahead of that of machine 0 (a); training does not mind, times in logs "
        "do",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_processes": 3}, r"--num_processes 3: counts the processes of all 2 machines"),
        ({"machine_rank": 2}, r"--machine_rank 2: 2 machines are counted from 0 to 1"),
        ({"main_process_ip": None}, r"give --main_process_ip and --main_process_port"),
        ({"main_process_port": None}, r"give --main_process_ip and --main_process_port"),
    ],
)
def test_options_that_do_not_fit_several_machines(options: dict[str, Any], said: str) -> None:
    whole = {"num_machines": 2, "num_processes": 4, "machine_rank": 1, "main_process_ip": "a", "main_process_port": 9}
    whole["rdzv_backend"] = "static"
    assert machines.place_of(SimpleNamespace(**whole)) == Place("a", 9, 1, 2)
    assert machines.place_of(SimpleNamespace(**whole | {"num_machines": 1})) is None
    assert machines.place_of(SimpleNamespace(**whole | {"rdzv_backend": "c10d"})) is None
    with pytest.raises(ConfigError, match=said):
        machines.place_of(SimpleNamespace(**whole | options))


def test_an_interface_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nothing0")
    with pytest.raises(ConfigError, match="GLOO_SOCKET_IFNAME: nothing0: no such network interface is up here"):
        machines.name_network(Place("127.0.0.1", 29500, 0, 2), lambda text: None)


def test_meeting_errors_keep_the_code_of_what_they_are_about() -> None:
    answer = judge(Place("a", 1, 0, 2), [Hello(0), Hello(1, problem="full", exit_code=4)], "", 20)
    assert answer.exit_code == 4
    assert MeetingError("x").exit_code == 1


def test_a_stop_signal_ends_the_wait_and_asks_for_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "code", lambda: "this one")
    monkeypatch.setenv(LAUNCH_ID, "mine")
    before = signal.getsignal(signal.SIGTERM)

    def stop(_: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(MeetingError, match="SIGTERM received while waiting for the other machines") as caught:
        machines.meet(places(2)[0], RunConfig(run=str(tmp_path / "run"), timeout_s=30), {}, stop, 30)
    assert caught.value.exit_code == 85
    assert signal.getsignal(signal.SIGTERM) == before
    status = read_status(tmp_path / "run") or {}
    assert (status["state"], status["exit_code"], status["launch"]) == ("preempted", 85, "mine")
    assert status["reason"] == str(caught.value)


def test_a_run_that_has_finished_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "code", lambda: "this one")
    monkeypatch.setenv(LAUNCH_ID, "before")
    write_status(tmp_path, "finished", step=9)
    monkeypatch.setenv(LAUNCH_ID, "mine")
    with pytest.raises(MeetingError, match=r"machine 1 of 2 did not come to 127\.0\.0\.1"):
        machines.meet(places(2)[0], RunConfig(run=str(tmp_path), timeout_s=1), {}, lambda text: None, 1)
    assert (read_status(tmp_path) or {})["state"] == "finished"
    write_status(tmp_path, "failed", step=9)
    monkeypatch.setenv(LAUNCH_ID, "again")
    with pytest.raises(MeetingError):
        machines.meet(places(2)[0], RunConfig(run=str(tmp_path), timeout_s=1), {}, lambda text: None, 1)
    status = read_status(tmp_path) or {}
    assert (status["state"], status["step"], status["launch"]) == ("failed", 9, "again")
    assert status["reason"].startswith("machine 1 of 2 did not come to 127.0.0.1:")


@pytest.mark.parametrize(("attempt", "seconds"), [(0, 30), (1, 60)])
def test_machines_meet_for_every_attempt_and_wait_longer_for_another(
    monkeypatch: pytest.MonkeyPatch, attempt: int, seconds: int
) -> None:
    waits = []

    def meet(place: Place, mine: Hello, launch: str, timeout_s: float, say: object) -> str:
        waits.append((launch, timeout_s))
        return "the name of machine 0"

    monkeypatch.setenv(LAUNCH_ID, "before")
    monkeypatch.setattr(machines, "code", lambda: "this one")
    monkeypatch.setattr(machines.roll_call, "meet", meet)
    config = RunConfig(timeout_s=30)
    name = machines.name_start(places(2)[1], config, {}, lambda text: None, "mine", attempt)
    assert name == os.environ[LAUNCH_ID] == "the name of machine 0"
    assert waits == [("mine-1" if attempt else "mine", seconds)]
    assert machines.name_start(None, config, {}, lambda text: None, "mine", attempt) == waits[0][0]
    assert len(waits) == 1, "one machine meets nobody"
