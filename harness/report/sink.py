# SPDX-License-Identifier: Apache-2.0
"""The report at the end of a run, where it can fail nothing."""

from __future__ import annotations

from pathlib import Path

from harness.report.page import write_report_quietly
from harness.training.sinks import Ending, Sink


class ReportSink(Sink):
    """Writes ``report.html`` when a run has finished."""

    def __init__(self, run: str | Path) -> None:
        """``run`` is the run directory."""
        self.run = run

    def close(self, ending: Ending) -> None:
        """Write it; whatever goes wrong becomes one line."""
        if ending.state == "finished":
            write_report_quietly(self.run)
