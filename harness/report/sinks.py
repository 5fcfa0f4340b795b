# SPDX-License-Identifier: Apache-2.0
"""Event sinks at the end of a run: its report, and its comparison with the linear model."""

from __future__ import annotations

from pathlib import Path

from harness.report.page import write_report_quietly
from harness.report.runs import beside_linear
from harness.scores.figures import numbers_of
from harness.training.writer import Ending, Sink
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import tell

SUMMARY = "baseline"
"""Prefix of the linear model's figures in trackers: ``baseline/accuracy`` and so on."""


class ReportSink(Sink):
    """Writes ``report.html`` when a run has finished; an error becomes one warning."""

    def __init__(self, run: str | Path) -> None:
        """``run`` is the run directory."""
        self.run = run

    def close(self, ending: Ending) -> None:
        """Write it."""
        if ending.state == "finished":
            write_report_quietly(self.run)


class BaselineSink(Sink):
    """Sends the linear model's figures to console and trackers at the end of a run, if ``DATA/baseline`` exists."""

    def __init__(self, run: str | Path, data: str | Path, others: Sink) -> None:
        """The figures go to ``others``, which must be closed after this sink."""
        self.run, self.data, self.others = Path(run), data, others

    def close(self, ending: Ending) -> None:
        """Report the comparison. An error becomes one warning, since the run has finished."""
        if ending.state != "finished":
            return
        try:
            found = beside_linear(self.run, self.data)[1]
        except DataError as error:
            tell(f"warning: no comparison with the linear model ({error})")
            return
        if found is None:
            return
        self.others.say(found.figures)
        self.others.say(found.verdict)
        bounds = {"difference_low": found.low, "difference_high": found.high}
        self.others.log(SUMMARY, {**numbers_of(dict(found.linear)), "difference": found.difference, **bounds})
