# SPDX-License-Identifier: Apache-2.0
"""``torch.profiler`` for chosen steps: a trace that a browser's tracing page or Perfetto opens."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from harness.rundir.layout import trace_name
from preprocessing.base import atomic
from preprocessing.base.storage import refusal

TAIL_BYTES = 64
"""Enough for the end of a trace, which is JSON."""


class StepProfiler:
    """Records the steps from the first to the last chosen one; idle without any."""

    def __init__(self, steps: Sequence[int], directory: Path) -> None:
        """``steps``: empty, or the first and the last step."""
        self.steps = tuple(steps)
        self.directory = directory
        self.running: profile | None = None

    def before(self, step: int) -> None:
        """Start if ``step`` is the first to be recorded."""
        if self.steps and step == self.steps[0]:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self.running = profile(activities=activities)
            self.running.start()

    def after(self, step: int) -> None:
        """Stop and write the trace if ``step`` was the last to be recorded."""
        if self.running is not None and step == self.steps[1]:
            self.running.stop()
            try:
                self.write(self.running, self.directory / trace_name(*self.steps))
            except OSError as error:  # a trace is not worth a training
                print(f"warning: {refusal(error, self.directory)}; training goes on without it", file=sys.stderr)
            self.running = None

    def write(self, recorded: profile, path: Path) -> None:
        """Write the trace. Raises ``OSError``, which torch itself does not.

        On a full disk torch leaves the beginning of a file, under the name or under that of a temporary file of its
        own, which it forgets.
        """
        with atomic.replacing(path) as temporary:
            try:
                recorded.export_chrome_trace(str(temporary))
                if not ends_whole(temporary):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            finally:
                temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)


def ends_whole(trace: Path) -> bool:
    """Whether a trace is there to its end."""
    if not trace.exists():
        return False
    with open(trace, "rb") as file:
        file.seek(max(0, trace.stat().st_size - TAIL_BYTES))
        return file.read().rstrip().endswith(b"}")
