# SPDX-License-Identifier: Apache-2.0
"""Two machines, each with a network, an address and a host name of its own: what goes wrong between them ends in time,
with a sentence on each and a status that says it, and the run that is started again ends as an undisturbed one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import unwrapped
from tests.datasets import write_dataset
from tests.machines import Two, launch_on, two_machines, why_not
from tests.runs import arguments, final, steps_done, wait_until
from tests.two_machines import CHAINS, FEW, LIMIT_S, SPLITS, START_S, suffer, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(900, func_only=True),
    pytest.mark.skipif(why_not() is not None, reason=f"two machines on this one: {why_not()}"),
]
SLOW_S = 240
"""What starting, noticing and leaving may take, beside a time limit, while other tests run."""
LOST = r"rank {} at step \d+ waited .*from 1 other ranks"
BY_A, BY_B = (LOST.format(0), "", LOST.format(0)), ("", LOST.format(1), LOST.format(1))
NONE = ("", "", "")
TAKEN, NO_DATA = "main_process_port: 29500 is taken by another program on machine-a", ".*dataset.json: missing"
NO_B, NO_A = (
    "machine 1 of 2 did not come to .* within 30 s",
    "machine 1 of 2: machine 0 did not answer at .* within 30 s",
)
ON_B = "machine 1 (machine-b)"
REFUSED = {
    "another revision": r"the code is .* on machine 1 \(machine-b\) and .* on machine 0 \(machine-a\): install",
    "another dataset": r"the dataset's fingerprint is \w+ on machine 1 \(machine-b\) and \w+ on machine 0",
    "another configuration": r"optim\.lr is 0\.01 on machine 1 \(machine-b\) and 0\.002 on machine 0 \(machine-a\)",
    "other number of processes": r"--num_processes is 4 on machine 1 \(machine-b\) and 2 on machine 0 \(machine-a\)",
    "run directory not shared": r"run: .* on machine-b is not the directory of that name on machine-a",
}
"""Fault -> what both machines and the status say."""
EXPECTED: dict[str, tuple[tuple[int, ...], tuple[str, str, str]]] = {
    **{fault: ((2, 2), (said,) * 3) for fault, said in REFUSED.items()},
    "undisturbed": ((0, 0), NONE),
    "link cut for 10 s": ((0, 0), NONE),
    "10 % of packets lost": ((0, 0), NONE),
    "dataset on one side only": (
        (3, 3),
        (re.escape(f"{ON_B} cannot train: ") + NO_DATA, NO_DATA, re.escape(f"{ON_B} cannot train: ") + NO_DATA),
    ),
    "port taken": ((2, 1), (TAKEN, "machine 1 of 2: ", TAKEN)),
    "machine 1 never comes": ((1,), (NO_B, "", NO_B)),
    "machine 0 never comes": ((1,), ("", NO_A, "")),
    "a machine loses power": ((1,), BY_A),
    "machine 0 loses power": ((1,), BY_B),
    "a machine frozen": ((1,), BY_A),
    "processes of a machine killed": ((1,), BY_A),
    "processes of machine 0 killed": ((1,), BY_B),
    "link cut for ever": ((1, 1), (LOST.format(0), LOST.format(1), LOST.format(0))),
}
"""Fault -> exit codes; what machine a says, what b says, the reason in the status."""


@pytest.mark.timeout(3000, func_only=True)
@pytest.mark.parametrize(
    "chains", [pytest.param(FEW, id="few"), pytest.param(CHAINS, id="all", marks=pytest.mark.night)]
)
def test_faults_end_in_time_and_the_run_goes_on_to_the_same_end(
    tmp_path: Path, chains: tuple[tuple[str, ...], ...]
) -> None:
    write_dataset(tmp_path / "data", SPLITS)
    undisturbed = None
    for number, chain in enumerate(chains):
        endings, weights = suffer(chain, tmp_path / "data", tmp_path / str(number), undisturbed)
        undisturbed = undisturbed or weights
        for one in endings:
            codes, said = EXPECTED[one.fault]
            assert (one.codes, one.equal) == (codes, True), one
            found = (one.said["a"], one.said["b"], one.status.get("reason", ""))
            assert all(re.match(wanted, text) for wanted, text in zip(said, found, strict=True)), one
            limit_s = SLOW_S if one.fault in REFUSED else SLOW_S + LIMIT_S
            assert one.seconds < limit_s or codes == (0, 0), one


def train_on(two: Two, folder: Path, name: str, *keys: str, lost: str = "") -> list[str]:
    """A training on both to its good end; what each said. ``lost``: the machine whose rank is killed in the middle."""
    words = arguments(folder / "data", folder / name, "--timeout_s", str(LIMIT_S), *keys)
    logs = [folder / f"{name}-{one.host}" for one in two.both]
    started = [launch_on(one, two.a, *words, log=log) for one, log in zip(two.both, logs, strict=True)]
    if lost:
        wait_until(lambda: steps_done(folder / name) >= 20, START_S)
        machine = two.a if lost == "a" else two.b
        (rank,) = [process for process in machine.processes() if "RANK" in process.environ()]
        rank.kill()
    assert wait_for(started, SLOW_S + 2 * LIMIT_S) == (0, 0), logs[0].read_text() + logs[1].read_text()
    return [unwrapped(log.read_text()) for log in logs]


@pytest.mark.parametrize("lost", ["a", pytest.param("b", marks=pytest.mark.night)])
def test_a_rank_that_is_lost_is_started_again_on_both(tmp_path: Path, lost: str) -> None:
    write_dataset(tmp_path / "data", SPLITS)
    with two_machines() as two:
        train_on(two, tmp_path, "undisturbed")
        said = train_on(two, tmp_path, "lost", lost=lost)
    assert all("restart 1 of 3, from the last checkpoint" in text for text in said)
    assert final(tmp_path / "lost") == final(tmp_path / "undisturbed")


def test_several_trainings_in_one_command_meet_for_each(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 160, "validation": 30, "test": 30})
    with two_machines() as two:
        both = train_on(two, tmp_path, "run", "--timeout_s", "120", "--epochs", "1", "--seeds", "0,1")
        for one, said in zip(two.both, both, strict=True):
            assert said.count(f"network interface {one.device} ({one.address}): the route to the others") == 2, said
    summary = json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert [one["run"] for one in summary["runs"]] == ["seed-0", "seed-1"]


def test_a_slow_link_is_said_and_half_the_bytes_take_half_the_time(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 256, "validation": 16, "test": 16}, longest=20)
    size = ("--model.hidden_size", "256", "--global_batch", "16", "--epochs", "1", "--tracking.log_every", "4")
    seconds = {}
    with two_machines() as two:
        two.slow_down("20mbit")
        for compression in ("none", "bf16"):
            said = train_on(two, tmp_path, compression, *size, "--optim.gradient_compression", compression)
            rows = (tmp_path / compression / "throughput.jsonl").read_text().splitlines()
            lines = [json.loads(line) for line in rows]
            seconds[compression] = sum(line["all_reduce"] * 64 / line["rows_per_s"] for line in lines)
            verdicts = [line["verdict"] for line in lines if line["verdict"]]
            assert "network-bound: " in said[0]
            assert all(("optim.gradient_compression" in text) == (compression == "none") for text in verdicts)
    assert 0.35 < seconds["bf16"] / seconds["none"] < 0.75, seconds


def test_the_doctor_looks_at_the_network_of_both(tmp_path: Path) -> None:
    with two_machines() as two:
        both = [launch_on(one, two.a, "--device", "cpu", log=tmp_path / one.host, command="doctor") for one in two.both]
        assert wait_for(both) == (0, 0), (tmp_path / "machine-a").read_text() + (tmp_path / "machine-b").read_text()
        said = unwrapped((tmp_path / "machine-a").read_text())
        for one in two.both:
            own = re.escape(f"{one.device} ({one.address}): the route to the others")
            assert re.search(rf"^ok +interface +{one.host}: {own};", said, re.MULTILINE), said
            assert one.processes() == []
        assert re.search(r"^ok +rendezvous +2 ranks on 2 machines met in", said, re.MULTILINE), said
        alone = launch_on(two.a, two.a, "--device", "cpu", "--timeout_s", "3", log=tmp_path / "alone", command="doctor")
        assert wait_for([alone]) == (2,)
        said = unwrapped((tmp_path / "alone").read_text())
        assert re.search(r"^fix +rendezvous +machine-a: machine 1 of 2 did not come to", said, re.MULTILINE), said
