# SPDX-License-Identifier: Apache-2.0
"""Two machines, each with a network, an address and a host name of its own: what goes wrong between them ends in time,
with a sentence on each and a status that says it, and the run that is started again ends as an undisturbed one.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import unwrapped
from tests.datasets import write_dataset
from tests.machines import Machine, launch_on, tool, two_machines, why_not
from tests.runs import arguments, final, steps_done, wait_until
from tests.two_machines import CHAINS, FEW, LIMIT_S, START_S, suffer, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(why_not() is not None, reason=f"two machines on this one: {why_not()}"),
]
SLOW_S = 240
"""What starting, noticing and leaving may take, beside a time limit, while other tests run."""
LOST = r"rank {} at step \d+ waited .*from 1 other ranks"
REFUSED = {
    "another revision": r"the code is .* on machine 1 \(machine-b\) and .* on machine 0 \(machine-a\): install",
    "another dataset": r"the dataset's fingerprint is \w+ on machine 1 \(machine-b\) and \w+ on machine 0",
    "another configuration": r"optim\.lr is 0\.01 on machine 1 \(machine-b\) and 0\.002 on machine 0 \(machine-a\)",
    "other number of processes": r"--num_processes is 4 on machine 1 \(machine-b\) and 2 on machine 0 \(machine-a\)",
    "run directory not shared": r"run: .* on machine-b is not the directory of that name on machine-a",
}
"""Fault -> what both machines say, and the status, long before a time limit."""
LASTING: dict[str, tuple[tuple[int | None, ...], str, str, str]] = {
    "undisturbed": ((0, 0), "", "", ""),
    "clock an hour ahead": ((0, 0), "", "", ""),
    "link cut for 10 s": ((0, 0), "", "", ""),
    "10 % of packets lost": ((0, 0), "", "", ""),
    "port taken": (
        (2, 1),
        "main_process_port: 29500 is taken by another program on machine-a",
        "machine 1 of 2: ",
        "=",
    ),
    "machine 1 never comes": ((1,), "machine 1 of 2 did not come to .* within 30 s", "", "="),
    "machine 0 never comes": ((1,), "", "machine 1 of 2: machine 0 did not answer at .* within 30 s", ""),
    "a machine loses power": ((1,), LOST.format(0), "", "="),
    "machine 0 loses power": ((1,), "", LOST.format(1), LOST.format(1)),
    "a machine frozen": ((1,), LOST.format(0), "", "="),
    "processes of a machine killed": ((1,), LOST.format(0), "", "="),
    "processes of machine 0 killed": ((1,), "", LOST.format(1), LOST.format(1)),
    "link cut for ever": ((1, 1), LOST.format(0), LOST.format(1), "="),
}
"""Fault -> exit codes, what machine a says, what b says, the reason in the status (=: what a says)."""


def reachable(process: Any) -> bool:
    return process.wait(20) == 0


def test_two_machines_see_each_other_until_the_link_is_cut(tmp_path: Path) -> None:
    with two_machines() as two:
        names = [machine.namespace for machine in two.both]
        words = "import socket; s = socket.create_server(('', 29500)); print('up', flush=True)\nwhile True: s.accept()"
        two.a.start(sys.executable, "-c", words, log=tmp_path / "server")
        deadline = time.monotonic() + 20
        while "up" not in (tmp_path / "server").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        visit = f"import socket; socket.create_connection(('{two.a.address}', 29500), 1); print(socket.gethostname())"
        log = tmp_path / "visitor"
        assert reachable(two.b.start(sys.executable, "-c", visit, log=log))
        assert log.read_text() == "machine-b\n"
        two.cut()
        assert not reachable(two.b.start(sys.executable, "-c", visit, log=tmp_path / "cut"))
        two.mend()
        assert reachable(two.b.start(sys.executable, "-c", visit, log=log))
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / "file").touch()
        look = ("ls", str(tmp_path / "own"))
        assert reachable(two.b.start(*look, log=tmp_path / "listed", own={tmp_path / "own": None}))
        assert (tmp_path / "listed").read_text() == ""
        assert (tmp_path / "own" / "file").exists()
        server = two.a.processes()
        assert len(server) == 1
    assert not server[0].is_running()
    assert not set(names) & set(tool("ip", "netns", "list").split())


@pytest.mark.timeout(3000, func_only=True)
@pytest.mark.parametrize(
    "chains",
    [pytest.param(FEW, id="few", marks=pytest.mark.slow), pytest.param(CHAINS, id="all", marks=pytest.mark.night)],
)
def test_faults_end_in_time_and_the_run_goes_on_to_the_same_end(
    tmp_path: Path, chains: tuple[tuple[str, ...], ...]
) -> None:
    write_dataset(tmp_path / "data", {"train": 320, "validation": 60, "test": 60})
    undisturbed = None
    for number, chain in enumerate(chains):
        endings, weights = suffer(chain, tmp_path / "data", tmp_path / str(number), undisturbed)
        undisturbed = undisturbed or weights
        for one in endings:
            assert one.equal, one
            reason = one.status.get("reason", "")
            if one.fault in REFUSED:
                assert one.codes == (2, 2), one
                assert all(re.match(REFUSED[one.fault], text) for text in (*one.said.values(), reason)), one
                assert one.seconds < SLOW_S, one
                continue
            if one.fault == "dataset on one side only":
                assert one.codes == (3, 3), one
                assert one.said["a"] == reason == f"machine 1 (machine-b) cannot train: {one.said['b']}", one
                continue
            codes, said_a, said_b, status = LASTING[one.fault]
            assert one.codes == codes, one
            assert re.match(said_a, one.said["a"]), one
            assert re.match(said_b, one.said["b"]), one
            assert reason == one.said["a"] if status == "=" else re.match(status, reason), one
            assert one.seconds < LIMIT_S + SLOW_S or codes == (0, 0), one


@pytest.mark.slow
@pytest.mark.timeout(900, func_only=True)
@pytest.mark.parametrize("lost", ["a", pytest.param("b", marks=pytest.mark.night)])
def test_a_rank_that_is_lost_is_started_again_on_both(tmp_path: Path, lost: str) -> None:
    write_dataset(tmp_path / "data", {"train": 320, "validation": 60, "test": 60})
    ends = {}
    with two_machines() as two:
        for name in ("undisturbed", "lost"):
            run = tmp_path / name
            keys = arguments(tmp_path / "data", run, "--timeout_s", str(LIMIT_S))
            logs = [tmp_path / f"{name}-{one.host}" for one in two.both]
            both = zip(two.both, logs, strict=True)
            started = [launch_on(one, two.a, *keys, log=log) for one, log in both]
            if name == "lost":
                wait_until(lambda: steps_done(tmp_path / "lost") >= 20, START_S)
                rank_of(two.a if lost == "a" else two.b).kill()
            assert wait_for(started, SLOW_S + 2 * LIMIT_S) == (0, 0), logs[0].read_text() + logs[1].read_text()
            ends[name] = final(run)
    assert all("restart 1 of 3, from the last checkpoint" in log.read_text() for log in logs)
    assert ends["lost"] == ends["undisturbed"]


def rank_of(machine: Machine) -> psutil.Process:
    """The only rank of a machine."""
    ranks = [process for process in machine.processes() if "RANK" in process.environ()]
    assert len(ranks) == 1, ranks
    return ranks[0]


@pytest.mark.slow
@pytest.mark.timeout(600, func_only=True)
def test_several_trainings_in_one_command_meet_for_each(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 160, "validation": 30, "test": 30})
    keys = arguments(tmp_path / "data", tmp_path / "run", "--timeout_s", "120", "--epochs", "1", "--seeds", "0,1")
    with two_machines() as two:
        started = [launch_on(one, two.a, *keys, log=tmp_path / one.host) for one in two.both]
        assert wait_for(started, SLOW_S) == (0, 0), (tmp_path / "machine-a").read_text()
        for one in two.both:
            said = unwrapped((tmp_path / one.host).read_text())
            assert said.count(f"network interface {one.device} ({one.address}): the route to the others") == 2, said
    summary = json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert [one["run"] for one in summary["runs"]] == ["seed-0", "seed-1"]


@pytest.mark.slow
@pytest.mark.timeout(900, func_only=True)
def test_a_slow_link_is_said_and_half_the_bytes_take_half_the_time(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 256, "validation": 16, "test": 16}, longest=20)
    size = ("--model.hidden_size", "256", "--global_batch", "16", "--epochs", "1", "--tracking.log_every", "4")
    seconds = {}
    with two_machines() as two:
        two.slow_down("20mbit")
        for compression in ("none", "bf16"):
            run = tmp_path / compression
            keys = arguments(tmp_path / "data", run, *size, "--optim.gradient_compression", compression)
            started = [launch_on(one, two.a, *keys, log=tmp_path / f"{compression}-{one.host}") for one in two.both]
            log = tmp_path / f"{compression}-machine-a"
            assert wait_for(started) == (0, 0), log.read_text()
            lines = [json.loads(line) for line in (run / "throughput.jsonl").read_text().splitlines()]
            seconds[compression] = sum(line["all_reduce"] * 64 / line["rows_per_s"] for line in lines)
            said = [line["verdict"] for line in lines if line["verdict"]]
            assert any(text.startswith("network-bound: ") for text in said), lines
            assert all(("optim.gradient_compression" in text) == (compression == "none") for text in said), said
            assert "network-bound: " in unwrapped(log.read_text())
    print(f"seconds of waiting for gradients: {seconds}")
    assert 0.35 < seconds["bf16"] / seconds["none"] < 0.75


@pytest.mark.slow
@pytest.mark.timeout(600, func_only=True)
def test_the_doctor_looks_at_the_network_of_both(tmp_path: Path) -> None:
    with two_machines() as two:
        both = [launch_on(one, two.a, "--device", "cpu", log=tmp_path / one.host, command="doctor") for one in two.both]
        assert wait_for(both) == (0, 0), (tmp_path / "machine-a").read_text() + (tmp_path / "machine-b").read_text()
        said = unwrapped((tmp_path / "machine-a").read_text())
        for one in two.both:
            own = f"{one.device} ({one.address}): the route to the others"
            assert re.search(
                rf"^ok +interface +{one.host}: {re.escape(own)}; .* since {one.host} is 127.0.1.1", said, re.MULTILINE
            ), said
        assert re.search(r"^ok +rendezvous +2 ranks on 2 machines met in", said, re.MULTILINE), said
        for one in two.both:
            assert one.processes() == []
        alone = launch_on(two.a, two.a, "--device", "cpu", "--timeout_s", "3", log=tmp_path / "alone", command="doctor")
        assert wait_for([alone]) == (2,)
        said = unwrapped((tmp_path / "alone").read_text())
        assert re.search(
            r"^fix +rendezvous +machine-a: machine 1 of 2 did not come to .* within 3 s", said, re.MULTILINE
        ), said
