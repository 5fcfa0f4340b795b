# SPDX-License-Identifier: Apache-2.0
"""What a run asks of all ranks: each thing once, and acted on at the next step."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config import CheckpointConfig, RunConfig
from harness.ranks.distributed import World
from harness.ranks.stopping import Preempted
from harness.rundir import checkpoint
from harness.training.checkpointer import Checkpointer
from harness.training.run import RankRequests, Run
from preprocessing.base.errors import StorageError


class Fake:
    """A run of one process without a training: ``saves`` are the steps at which it was saved."""

    def __init__(self, **config: Any) -> None:
        self.saves: list[int] = []
        self.due_from = self.stop_from = self.broken_from = 10**9
        self.trainer = SimpleNamespace(step=0)
        self.writer = SimpleNamespace(step=0, is_due=self.is_due, failure=None)
        self.watch = SimpleNamespace(reason=lambda: "asked" if self.trainer.step >= self.stop_from else None)
        session = SimpleNamespace(world=World())
        saving = CheckpointConfig(**config)
        parts: dict[str, Any] = dict.fromkeys(("manifest", "data", "scorer", "selection", "console"))
        self.run = Run(
            config=RunConfig(checkpoint=saving),
            session=session,  # type: ignore[arg-type]
            trainer=self.trainer,  # type: ignore[arg-type]
            requests=RankRequests(World()),
            watch=self.watch,  # type: ignore[arg-type]
            writer=self.writer,  # type: ignore[arg-type]
            **parts,
        )
        self.run.save = lambda *, wait=False: self.saves.append(self.trainer.step)  # type: ignore[method-assign]

    def is_due(self) -> bool:
        """By the clock, until the save itself resets it."""
        return self.trainer.step >= self.due_from and not any(step >= self.due_from for step in self.saves)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.trainer.step += 1
            if self.trainer.step >= self.broken_from:
                self.writer.failure = StorageError("the disk is full")
            self.run.after_step()


def test_the_first_checkpoint_of_a_start_comes_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoint, "write", lambda *_: None)
    due = []
    for every_s in (300.0, 20.0):
        saver = Checkpointer(tmp_path, CheckpointConfig(every_s=every_s), torch.device("cpu"), lambda: None)
        for seconds in (19, 2, 38, 2):
            now += seconds
            due.append(saver.is_due())
        saver.save({}, {"step": 1}, None, wait=True)
        for seconds in (61, 240):
            now += seconds
            due.append(saver.is_due())
    assert due == [False, False, False, True, False, True, False, True, True, True, True, True]


def test_a_checkpoint_that_is_due_is_asked_for_and_made_once() -> None:
    fake = Fake()
    fake.due_from = 5
    fake.steps(30)
    assert fake.saves == [6]


def test_a_stop_and_what_cannot_be_written_end_a_run_at_the_next_step() -> None:
    stopped, broken = Fake(), Fake()
    stopped.stop_from, broken.broken_from = 7, 3
    with pytest.raises(Preempted, match="asked"):
        stopped.steps(20)
    with pytest.raises(StorageError, match="the disk is full"):
        broken.steps(20)
    assert (stopped.trainer.step, broken.trainer.step) == (8, 4)


def test_what_was_asked_for_at_the_last_step_is_done_before_the_validation() -> None:
    fake = Fake()
    fake.due_from = 5
    fake.steps(5)
    fake.run.before_validation()
    fake.run.before_validation()
    assert fake.saves == [5]
