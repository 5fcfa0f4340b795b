# SPDX-License-Identifier: Apache-2.0
"""When a checkpoint is due, and writing it beside the training; how bytes are written is ``rundir.checkpoint``'s."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import CheckpointConfig
from harness.model.networks import check_finite, shapes_of
from harness.ranks.stopping import HEARTBEAT
from harness.rundir import checkpoint
from harness.rundir.checkpoint import MODEL, OPTIMIZER, Checkpoint, check_tensors
from harness.rundir.layout import storage
from preprocessing.base.errors import UserError

FIRST_S = 60.0
"""The first checkpoint of a start comes so soon, since what is lost early is lost with the start itself."""
NICENESS = 19
"""Priority of the writing thread: training needs the cores more. While training waits for it, they are idle."""


class Checkpointer:
    """Writes on rank 0. One write at a time: a second one that comes too soon waits for the first."""

    def __init__(self, run: Path, config: CheckpointConfig, device: torch.device, sync: Callable[[], None]) -> None:
        """``sync`` flushes the metrics to the disk, before a checkpoint that knows of them gets its name."""
        self.run, self.config, self.sync = run, config, sync
        self.snapshots = Snapshots(device)
        self.on_device = device.type != "cpu"
        self.thread: threading.Thread | None = None
        self.failure: UserError | None = None
        self.saved_at = time.monotonic()
        self.saved = False

    def prepare(self, tensors: Tensors) -> None:
        """Set the memory for copies of ``tensors`` aside, beside the first steps."""
        self._start(lambda: self.snapshots.prepare(tensors))

    def is_due(self) -> bool:
        """Whether ``every_s`` have passed since the last checkpoint, or ``FIRST_S`` since a start that has none yet.

        Only one rank's clock may decide.
        """
        every_s = self.config.every_s if self.saved else min(FIRST_S, self.config.every_s)
        return time.monotonic() - self.saved_at >= every_s

    def save(self, tensors: Tensors, state: dict[str, Any], best: int | None, *, wait: bool) -> None:
        """Take copies and write them, in the background unless ``wait``. Raises ``StorageError`` of this or the last.

        ``best``: the step of the best validation so far, whose checkpoint is kept.
        """
        self.wait()  # cannot hang: see there
        files = self.snapshots.copy(tensors)
        copied = torch.cuda.Event() if self.on_device else None
        if copied is not None:
            copied.record()
            if wait:
                with HEARTBEAT.waiting("the device to copy a checkpoint, and with it gradients"):
                    copied.synchronize()
        self.saved_at, self.saved = time.monotonic(), True

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            with storage(checkpoint.path_of(self.run, state["step"])):
                self.sync()
                checkpoint.write(self.run, state["step"], files, state)
                checkpoint.delete(self.run, set(checkpoint.steps(self.run)[: -self.config.keep_last]) - {best})

        if wait:
            write()
        else:
            self._start(write)

    def wait(self) -> None:
        """Until nothing is being written. Raises ``StorageError`` if the last write failed."""
        if self.thread is not None:
            # cannot hang but on a disk that never answers, which holds a process in the kernel beyond any limit of its
            # own; the other ranks give up with a sentence, and the launcher after a stop signal
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            # On Linux a thread has a priority of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            try:
                work()
            except UserError as error:
                self.failure = error

        self.thread = threading.Thread(target=run, name="padless-checkpoint", daemon=True)
        self.thread.start()


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
    check_tensors(shapes_of(weights), shapes_of(classifier.state_dict()), f"{where}: not the weights of this model")
    classifier.load_state_dict(dict(weights))
