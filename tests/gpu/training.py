# SPDX-License-Identifier: Apache-2.0
"""Real trainers in this process, for the tests and the proof on a card: all that is known here of how one is built."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from harness.batch import StepBatch
from harness.config import RunConfig
from harness.data.checks import TRAIN
from harness.data.placement import open_data
from harness.ranks.session import Session, open_session
from harness.training.assembly import build_trainer
from harness.training.start import begin
from harness.training.trainer import Trainer
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import read_manifest
from tests.commands import free_port


@contextmanager
def session_for(config: RunConfig) -> Iterator[Session]:
    """A session as a run of ``config`` opens it.

    Accelerate keeps device and precision for the life of a process; a second session in it needs that forgotten.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with open_session(config.device, config.precision, config.timeout_s) as session:
        yield session


def make_trainer(config: RunConfig, session: Session) -> Trainer:
    """A trainer at step 0, as a run of ``config`` builds it."""
    manifest = read_manifest(config.data)
    beside = UNLABELLED if config.order.unlabelled_batch else None
    data = open_data(config.data, manifest, TRAIN, session.world, timeout_s=60, stage_dir="none", beside=beside)
    beginning = begin(config, manifest, data.splits, session.world)
    trainer = build_trainer(config, session, manifest, data, dict(session.choices), beginning)
    trainer.model.train()
    return trainer


def all_steps(trainer: Trainer) -> Iterator[StepBatch]:
    """The steps of one epoch after the other."""
    for epoch in itertools.count():
        yield from trainer.loader.steps(epoch)


def train(trainer: Trainer, steps: Iterator[StepBatch], number: int) -> list[torch.Tensor]:
    """What ``Trainer.fit`` does in its loop, for some steps; the loss sum of each, still on the device."""
    losses = []
    for batch in itertools.islice(steps, number):
        loss, _ = trainer.update(batch)
        trainer.step += 1
        losses.append(loss)
    return losses


def state_bytes(trainer: Trainer) -> dict[str, bytes]:
    """Every tensor of a training's state, by name."""
    tensors = trainer.state().tensors
    return {
        f"{file}/{name}": tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        for file, named in tensors.items()
        for name, tensor in named.items()
    }


@contextmanager
def lstm_dtypes() -> Iterator[set[torch.dtype]]:
    """The dtypes that the outputs of LSTM calls inside the block really have, whoever makes the call."""
    seen: set[torch.dtype] = set()
    holders: list[Any] = [torch, torch._VF]
    originals = [holder.lstm for holder in holders]

    def watched(original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            results = original(*arguments)
            seen.add(results[0].dtype)
            return results

        return call

    for holder, original in zip(holders, originals, strict=True):
        holder.lstm = watched(original)
    try:
        yield seen
    finally:
        for holder, original in zip(holders, originals, strict=True):
            holder.lstm = original


def losses_in_ddp(config: RunConfig, steps: int) -> tuple[list[float], str, str | None]:
    """``losses_and_module`` as the only rank of a process group; to be called in a process of its own.

    Accelerate wraps no model for one process, and so is made to believe that there are more.
    """
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    PartialState.use_distributed = property(lambda self: True)  # type: ignore[method-assign, assignment]
    return losses_and_module(config, steps)


def losses_and_module(config: RunConfig, steps: int) -> tuple[list[float], str, str | None]:
    """Losses of some steps, what the trainer's model was wrapped in, and the backend of its gradients."""
    with session_for(config) as session:
        trainer = make_trainer(config, session)
        losses = [float(loss) for loss in train(trainer, all_steps(trainer), steps)]
        backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
        return losses, type(trainer.model).__name__, backend
