# SPDX-License-Identifier: Apache-2.0
"""When a checkpoint is due, and writing it beside the training; how bytes are written is ``rundir.checkpoint``'s."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.config import CheckpointConfig
from harness.ranks.stopping import HEARTBEAT
from harness.rundir import checkpoint
from harness.rundir.storage import storage
from harness.training.state import Snapshots, Tensors
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
                checkpoint.prune(self.run, last=self.config.keep_last, best=best)

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
