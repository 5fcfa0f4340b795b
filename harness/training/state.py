# SPDX-License-Identifier: Apache-2.0
"""What a training is between two steps: live tensors and plain values, and memory to take copies of the tensors into.

``Trainer.state`` gives it and ``Trainer.load`` takes it back; nobody else looks into a trainer to save it. Random
numbers need no state: the order of rows and dropout are functions of (seed, step, row).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.model.networks import check_finite, shapes_of
from harness.rundir.checkpoint import MODEL, OPTIMIZER, Checkpoint
from harness.rundir.tensor_files import Stored, check_tensors

Tensors = dict[str, dict[str, torch.Tensor]]
"""File of a checkpoint -> name -> tensor."""


@dataclass(frozen=True)
class State:
    """A training as a checkpoint holds it."""

    tensors: Tensors
    """The training's own memory, not copies: copy what must outlive the next step, and write to none of it."""
    values: dict[str, Any]
    """As JSON can hold them."""

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> State:
        """The state that a verified checkpoint holds. Raises ``DataError`` if its tensors are not finite numbers."""
        tensors = {name: checkpoint.tensors(name) for name in (MODEL, OPTIMIZER)}
        for name, named in tensors.items():
            check_finite(named, checkpoint.path / name)
        return cls(tensors, checkpoint.state["trainer"])


class Snapshots:
    """Memory on the CPU that tensors are copied into, one pass over memory, so that training may go on at once."""

    def __init__(self, device: torch.device) -> None:
        """Nothing is held until ``prepare`` or the first copy; on CUDA the memory is pinned."""
        self.pinned = device.type == "cuda"
        self.held: dict[tuple[str, str], torch.Tensor] = {}

    def prepare(self, tensors: Tensors) -> None:
        """Touch all the memory that a copy will need, so that the first one takes no longer than the others."""
        for file, named in tensors.items():
            for name, tensor in named.items():
                # By numpy, which stays on this thread.
                self._buffer(file, name, tensor).reshape(-1).view(torch.uint8).numpy().fill(0)

    def copy(self, tensors: Tensors) -> Tensors:
        """Copies, valid until the next call; on CUDA once the current stream has come this far."""
        copies: Tensors = {}
        for file, named in tensors.items():
            copies[file] = {}
            for name, tensor in named.items():
                buffer = self._buffer(file, name, tensor)
                buffer.copy_(tensor, non_blocking=True)
                copies[file][name] = buffer
        return copies

    def _buffer(self, file: str, name: str, like: torch.Tensor) -> torch.Tensor:
        held = self.held.get((file, name))
        if held is None:
            held = torch.empty(like.shape, dtype=like.dtype, pin_memory=self.pinned)
            self.held[file, name] = held
        return held


def load_weights(classifier: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Give a model the weights of a file. Raises ``DataError`` that names ``where`` if they are of another model."""
    check_tensors(described(weights), shapes_of(classifier.state_dict()), f"{where}: not the weights of this model")
    classifier.load_state_dict(dict(weights))


def described(tensors: Mapping[str, torch.Tensor]) -> dict[str, Stored]:
    """Tensors as a file describes them."""
    return {name: Stored(*shape, (0, 0)) for name, shape in shapes_of(tensors).items()}
