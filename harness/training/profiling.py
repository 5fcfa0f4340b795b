# SPDX-License-Identifier: Apache-2.0
"""``torch.profiler`` for chosen steps: a trace that a browser's tracing page or Perfetto opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from harness.rundir.layout import trace_name


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
            self.directory.mkdir(parents=True, exist_ok=True)
            self.running.export_chrome_trace(str(self.directory / trace_name(*self.steps)))
            self.running = None
