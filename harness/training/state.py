# SPDX-License-Identifier: Apache-2.0
"""What a run's state is, between two steps: taken from a trainer into a checkpoint, and put back.

Random numbers need no state: the order of rows and dropout are functions of (seed, step, row). Tensors are copied into
buffers that are kept, so that taking a snapshot is one pass over memory and training may go on at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from harness.rundir.checkpoint import MODEL, OPTIMIZER, Checkpoint
from preprocessing.base.errors import DataError

if TYPE_CHECKING:
    from harness.training.trainer import Trainer

MOMENTS = ("exp_avg", "exp_avg_sq")


class Buffers:
    """Memory on the CPU (on CUDA: pinned) that snapshots are copied into."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is held until ``prepare`` or the first snapshot."""
        self.pinned = device.type == "cuda"
        self.held: dict[tuple[str, str], torch.Tensor] = {}

    def prepare(self, trainer: Trainer) -> None:
        """Touch all the memory that a snapshot will need, so that the first one takes no longer than the others."""
        for file, name, tensor in live_tensors(trainer):
            fill(self._buffer(file, name, tensor))
        for name, parameter in trainer.objective.classifier.named_parameters():
            for moment in MOMENTS:
                fill(self._buffer(OPTIMIZER, f"{moment}.{name}", parameter))

    def copy(self, trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors by file and name, valid until the next call; on CUDA once the current stream has come this far."""
        files: dict[str, dict[str, torch.Tensor]] = {MODEL: {}, OPTIMIZER: {}}
        for file, name, tensor in live_tensors(trainer):
            buffer = self._buffer(file, name, tensor)
            buffer.copy_(tensor, non_blocking=self.pinned)
            files[file][name] = buffer
        return files

    def _buffer(self, file: str, name: str, like: torch.Tensor) -> torch.Tensor:
        held = self.held.get((file, name))
        if held is None:
            held = torch.empty(like.shape, dtype=like.dtype, pin_memory=self.pinned)
            self.held[file, name] = held
        return held


def fill(buffer: torch.Tensor) -> None:
    """Touch every page; by numpy, which stays on this thread."""
    buffer.reshape(-1).view(torch.uint8).numpy().fill(0)


def live_tensors(trainer: Trainer) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(file, name, tensor) of everything that a checkpoint holds, where it lies now."""
    classifier = trainer.objective.classifier
    for name, tensor in classifier.state_dict().items():
        yield MODEL, name, tensor.detach()
    optimizer = trainer.optimizer.optimizer
    for name, parameter in classifier.named_parameters():
        for key, tensor in optimizer.state.get(parameter, {}).items():
            yield OPTIMIZER, f"{key}.{name}", tensor
    if trainer.average is not None:
        for (name, _), tensor in zip(classifier.named_parameters(), trainer.average.average, strict=True):
            yield OPTIMIZER, f"average.{name}", tensor


def describe(trainer: Trainer, counted: list[dict[str, Any]]) -> dict[str, Any]:
    """The plain values of a trainer's state; ``counted`` is ``Meter.partial``."""
    scaler = trainer.accelerator.scaler
    return {
        "step": trainer.step,
        "epochs_done": trainer.epochs_done,
        "stopped": trainer.stopped,
        "skipped_in_a_row": trainer.guard.in_a_row,
        "skipped_total": trainer.guard.total,
        "scaler": None if scaler is None else scaler.state_dict(),
        "counted": counted,
    }


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put a trainer where a checkpoint was taken. Raises ``DataError`` if the checkpoint is of another model."""
    state = checkpoint.state
    classifier = trainer.objective.classifier
    load_weights(classifier, checkpoint.tensors(MODEL), checkpoint)
    tensors = checkpoint.tensors(OPTIMIZER)
    optimizer = trainer.optimizer.optimizer
    try:
        for name, parameter in classifier.named_parameters():
            names = ("step", *MOMENTS)
            if f"step.{name}" in tensors:
                optimizer.state[parameter] = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in names}
        if trainer.average is not None:
            for (name, _), average in zip(classifier.named_parameters(), trainer.average.average, strict=True):
                own = classifier.get_parameter(name).detach()  # the average begins at the weights when it is new
                average.copy_(tensors.get(f"average.{name}", own))
    except (KeyError, RuntimeError) as error:
        raise DataError(f"{checkpoint.path / OPTIMIZER}: not the optimizer of this model ({error})") from None
    trainer.step, trainer.epochs_done = state["step"], state["epochs_done"]
    trainer.stopped = state["stopped"] and trainer.config.patience is not None
    trainer.guard.in_a_row, trainer.guard.total = state["skipped_in_a_row"], state["skipped_total"]
    if trainer.accelerator.scaler is not None and state["scaler"]:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.meter.restore(state["counted"], trainer.world.rank, trainer.world.world_size)


def load_weights(classifier: torch.nn.Module, weights: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Give a model a checkpoint's weights. Raises ``DataError``."""
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{checkpoint.path / MODEL}: not the weights of this model ({reason})") from None
