# SPDX-License-Identifier: Apache-2.0
"""Law 7: nothing hangs. Collectives live in one module; every wait has a limit, and the error names what was waited
for. That ranks have the same number of steps by construction: ``test_order_is_a_pure_function.py``.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from harness.batch import Batch
from harness.config import ModelConfig
from harness.distributed import world
from harness.distributed.session import open_session
from harness.distributed.stopping import MARGIN_S, REASONS, Heartbeat, read_reasons, run_rank
from harness.distributed.world import RankError, World
from harness.model.classifier import Classifier
from harness.training import validation
from padless.core.errors import ConfigError
from padless.core.signals import end_process
from tests.helpers.commands import ROOT, values_in_log
from tests.helpers.datasets import write_dataset
from tests.helpers.ranks import RankExit, run_ranks, start_ranks
from tests.helpers.runs import finish, log, start

COLLECTIVES = ROOT / "harness" / "distributed" / "world.py"
LIMIT_S = 3


# Collectives live in one module, and none waits without a name and a limit.


COLLECTIVE = re.compile(
    r"(dist|distributed)\.(all_reduce|all_gather|barrier|broadcast|gather|monitored_barrier|reduce|scatter|send|recv)"
    r"|accelerator\.(gather|reduce|pad_across|wait_for|main_process_first|local_main_process_first|split_between)"
)
"""Calls of torch, and those inside Accelerate."""


def test_collectives_live_in_one_module() -> None:
    modules = {path for path in (ROOT / "harness").rglob("*.py") if COLLECTIVE.search(path.read_text())}
    assert modules == {COLLECTIVES}


# Every other wait has a limit, or says why it cannot hang.

ENDLESS = re.compile(r"\.(join|get|wait|result|recv|acquire|communicate)\(\)")
REASON = "cannot hang"


def endless(source: str) -> list[int]:
    """Lines that wait for a thread, queue, process or lock without a limit, and have no comment on why in the same line
    or the two before.
    """
    lines = ["", "", *source.splitlines()]
    nearby = {number: " ".join(lines[number - 2 : number + 1]) for number in range(2, len(lines))}
    return [number - 1 for number, text in nearby.items() if ENDLESS.search(lines[number]) and REASON not in text]


def test_every_wait_has_a_limit_or_a_reason() -> None:
    sources = [path for room in ("harness", "padless", "preprocessing") for path in sorted((ROOT / room).rglob("*.py"))]
    lines_by_module = {
        path.relative_to(ROOT).as_posix(): endless(path.read_text()) for path in sources if path != COLLECTIVES
    }
    assert {name: lines for name, lines in lines_by_module.items() if lines} == {}


# A peer that is silent, and one that is dead.

WAITS: dict[str, Callable[[World], object]] = {
    "the tokens of a line": lambda world: world.gather_objects([0.0] * 3, "the tokens of a line"),
    "the dataset's fingerprint": lambda world: world.gather_objects("a", "the dataset's fingerprint"),
    "the start-up handshake": lambda world: world.handshake({"seed": "1"}),
    "the end of a checkpoint": lambda world: agree_on(world, "a checkpoint"),
}
"""What is waited for, and how."""
NAMES = [*WAITS, "the gradients of step 7"]


def agree_on(world: World, wait_name: str) -> None:
    with world.raise_together(wait_name):
        pass


def sentence_of(wait: Callable[[World], object], world: World) -> str:
    with pytest.raises(RankError) as caught:
        wait(world)
    return str(caught.value)


def all_waits_at_once(limit_s: int, meanwhile: Callable[[Path], None], met: str) -> dict[str, str]:
    """On rank 0, what every wait for rank 1 ends with; rank 1 has joined, and then does something else."""
    with open_session("cpu", "fp32", limit_s) as session:
        limit = timedelta(seconds=limit_s)
        # A group for every wait: one that ran out of time cannot be used again.
        theirs = [World(session.world.rank, 2, dist.new_group(backend="gloo", timeout=limit), limit_s) for _ in NAMES]
        network = session.accelerator.prepare(Classifier(ModelConfig(embedding_dim=4, hidden_size=4), 10))
        session.world.gather_objects(None, "the other one")
        if session.world.rank == 1:
            meanwhile(Path(met))
            return {}

        def learn(world: World) -> None:
            step = Batch(torch.tensor([[2, 3]]), torch.tensor([2]), torch.tensor([1]), np.array([0]))
            with world.watch_wait("the gradients of step 7"):
                session.accelerator.backward(network(step).sum())

        waits = {**WAITS, "the gradients of step 7": learn}
        with ThreadPoolExecutor(len(waits)) as threads:
            sentence_by_wait = dict(zip(waits, threads.map(sentence_of, waits.values(), theirs), strict=True))
        Path(met).touch()
        return sentence_by_wait


def be_silent(until: Path) -> None:
    """Sleep longer than any wait."""
    while not until.exists():
        time.sleep(0.05)


def be_killed(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.processes
@pytest.mark.parametrize(("meanwhile", "limit_s"), [(be_silent, LIMIT_S), (be_killed, 3600)])
def test_a_peer_that_is_silent_or_dead_becomes_a_sentence_that_names_the_wait(
    tmp_path: Path, meanwhile: Callable[[Path], None], limit_s: int
) -> None:
    """Silence ends at the limit, a death long before it: this test is ended, and fails, after a minute."""
    arguments = (limit_s, meanwhile, str(tmp_path / "met"))
    sentence_by_wait, peer_exit = run_ranks(all_waits_at_once, 2, *arguments, timeout_s=60, may_die=True)
    assert meanwhile is be_silent or peer_exit == RankExit(-signal.SIGKILL)
    assert list(sentence_by_wait) == NAMES
    for wait_name, sentence in sentence_by_wait.items():
        assert sentence.startswith(
            f"rank 0 at step 0 waited for {wait_name} from 1 other ranks, and at least one of them is gone or"
        )


# A rank that fails alone does not wait for the others, nor do they for it.


def end_a_session(way: str, folder: Path) -> None:
    """A rank that ends in one of several ways, where leaving the process group waits for all ranks, as NCCL does."""
    rank = int(os.environ["RANK"])

    def destroy_when_all_do() -> None:
        (folder / f"leaves-{rank}").touch()
        while len(list(folder.glob("leaves-*"))) < 2 or way == "clean for one":
            time.sleep(0.02)

    def main(_: list[str]) -> int:
        with open_session("cpu", "fp32", 600) as session:
            session.world.gather_objects(None, "the other one")
            if way == "alone" and rank == 1:
                raise KeyError("mood")
            with session.world.raise_together("a block"):
                if way == "agreed" and rank == 1:
                    raise ConfigError("no such key")
        return 0

    dist.destroy_process_group = destroy_when_all_do
    world.LEAVE_LIMIT_S = 2.0 if way == "clean for one" else 600.0
    os.dup2(os.open(folder / f"said-{rank}", os.O_CREAT | os.O_WRONLY), 2)
    os.environ[REASONS] = str(folder / f"words-{rank}")
    end_process(run_rank(main))


@pytest.mark.processes
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("way", "codes", "follow", "leave_together"),
    [
        ("clean", (0, 0), {}, True),
        ("clean for one", (0, 0), {}, True),
        ("agreed", (2, 0), {"0": False}, True),
        ("alone", (1, 1), {"0": True, "1": False}, False),
    ],
)
def test_a_rank_that_fails_alone_ends_without_the_others(
    tmp_path: Path, way: str, codes: tuple[int, int], follow: dict[str, bool], leave_together: bool
) -> None:
    """The process group is left together after a clean block or an error that all have agreed on, else not at all."""
    ranks = start_ranks(end_a_session, 2, way, tmp_path)
    for rank in ranks:
        rank.join(40)
    outputs = [path.read_text() for path in tmp_path.glob("said-*")]
    assert tuple(rank.exitcode for rank in ranks) == codes, outputs
    assert len(list(tmp_path.glob("leaves-*"))) == 2 * leave_together
    reasons = [line for path in tmp_path.glob("words-*") for line in read_reasons(path)]
    assert {str(line["rank"]): line["follows"] for line in reasons} == follow


# A stop signal, at any instant; many more in tests/unit/test_stopping.py and end_to_end/test_stop_signals.py.


def disagree() -> None:
    """Each rank finds its own figures, as machines do in the last bit."""
    rank = int(os.environ["RANK"])
    calls, measure = itertools.count(1), validation.measure_language_model

    def measure_differently(*words: Any, **options: Any) -> dict[str, Any]:
        return measure(*words, **options) | {"log_loss": 3.0 / (1 + rank * next(calls))}

    validation.measure_language_model = measure_differently


@pytest.mark.processes
@pytest.mark.timeout(280)
def test_only_rank_0_decides_which_weights_are_best_and_when_to_stop(tmp_path: Path) -> None:
    """A rank that kept what the others do not, or left alone, would leave them waiting."""
    write_dataset(tmp_path / "data", {"train": 60, "validation": 20}, longest=12, widths=(16,))
    keys = ("--task", "language_model", "--language_model.candidates", "10", "--patience", "2")
    ranks = start(tmp_path / "data", tmp_path / "a" / "run", *keys, setup=disagree)
    finish(ranks, tmp_path / "a" / "run")
    assert [process.exitcode for process in ranks.processes] == [0, 0]
    best = values_in_log(tmp_path / "a" / "run", "best", "validation")
    assert best == [True, False, False]
    assert "stopping: 2 validations without a better one (patience)" in log(tmp_path / "a" / "run")


def test_a_lost_peer_is_seen_while_the_host_waits_for_its_device() -> None:
    """By the last message between ranks, which has failed, long before the limit of the wait."""
    heartbeat = Heartbeat()
    heartbeat.limit_s = 600.0
    with heartbeat.watch_wait("the device to finish step 7"):
        soon = time.monotonic() + 2 * MARGIN_S
        assert heartbeat.find_problem(soon) is None
        heartbeat.has_lost_peer = lambda: True
        assert "the device to finish step 7" in (heartbeat.find_problem(soon) or "")
