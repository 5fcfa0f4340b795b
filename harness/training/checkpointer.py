# SPDX-License-Identifier: Apache-2.0
"""When rank 0 writes checkpoints and which it keeps; the bytes are ``rundir.checkpoint``'s, written in a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from harness.config import CheckpointConfig
from harness.distributed.stopping import HEARTBEAT
from harness.rundir import checkpoint
from harness.rundir.layout import storage
from harness.training.throughput import record_event
from harness.training.trainer import Tensors

MAX_FIRST_S = 60.0
"""Latest time of the first checkpoint, so that an early failure does not lose the startup work."""
NICENESS = 19
"""Niceness of the writing thread: training has priority, except while it waits for the thread."""


class Checkpointer:
    """Writes checkpoints on rank 0, from copies of the state; one at a time."""

    def __init__(self, run: Path, config: CheckpointConfig, device: torch.device, sync: Callable[[], None]) -> None:
        """``sync`` flushes the metrics to disk; called before each checkpoint, which stores the size of their files."""
        self.run, self.config, self.sync = run, config, sync
        self.device = device
        self.copies: Tensors = {}
        """On the CPU, pinned for CUDA; reused by each save."""
        self.thread: threading.Thread | None = None
        self.failure: Exception | None = None
        """The first error in writing; nothing is written after it."""
        self.due_at = time.monotonic() + min(MAX_FIRST_S, config.every_s)

    def is_due(self) -> bool:
        """Whether ``every_s`` have passed since the last checkpoint, or ``MAX_FIRST_S`` since the start without one.

        Call it on one rank only: clocks differ.
        """
        return time.monotonic() >= self.due_at

    def save(self, tensors: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """Copy the state and write it, in the background unless ``wait``. The checkpoint of the best validation so far
        is kept.
        """
        self.wait()  # cannot hang: see there
        if self.failure is not None:
            return
        self.copy(tensors)
        copied = record_event(self.device)
        self.due_at = time.monotonic() + self.config.every_s

        def write() -> None:
            try:
                self.write(state, copied, wait=wait)
            except Exception as error:  # an exception in a thread is not reported otherwise
                self.failure = error

        if wait:
            write()
        else:
            self.thread = threading.Thread(target=write, name="padless-checkpoint", daemon=True)
            self.thread.start()

    def write(self, state: dict[str, Any], copied: torch.cuda.Event | None, *, wait: bool) -> None:
        """Write the copied tensors and ``state``, after ``copied`` confirms that they are complete; then remove old
        checkpoints. Raises ``StorageError``.
        """
        if not wait:  # on Linux, per thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        if copied is not None:
            device = "the device to copy a checkpoint, and with it gradients"
            with HEARTBEAT.watch_wait(device) if wait else nullcontext():
                copied.synchronize()
        with storage(checkpoint.checkpoint_path(self.run, state["step"])):
            self.sync()
            checkpoint.write(self.run, state["step"], self.copies, state)
            old_steps = set(checkpoint.steps(self.run)[: -self.config.keep_last])
            checkpoint.delete(self.run, old_steps - {state["selection"]["best_step"]})

    def copy(self, tensors: Tensors) -> None:
        """Copy the tensors, so that training can continue at once; on CUDA asynchronous, in stream order."""
        for file, tensor_by_name in tensors.items():
            copies = self.copies.setdefault(file, {})
            for name, tensor in tensor_by_name.items():
                if name not in copies:
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device.type == "cuda")
                copies[name].copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Wait for the current write, if any."""
        if self.thread is not None:
            # cannot hang, except on a disk that does not respond: the process then blocks in the kernel, where it
            # cannot enforce a limit; the other ranks time out with a message, the launcher after a stop signal
            self.thread.join()
            self.thread = None
