# SPDX-License-Identifier: Apache-2.0
"""What is written and said when a run has finished: its report, and how it does beside the linear model."""

from __future__ import annotations

from pathlib import Path

from harness.report.page import write_report_quietly
from harness.report.runs import beside_linear
from harness.scores.figures import numbers_of
from harness.training.writer import Ending, Sink
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import tell

SUMMARY = "baseline"
"""What the linear model's figures are called by trackers: ``baseline/accuracy`` and so on."""


class ReportSink(Sink):
    """Writes ``report.html`` when a run has finished; whatever goes wrong becomes one line."""

    def __init__(self, run: str | Path) -> None:
        """``run`` is the run directory."""
        self.run = run

    def close(self, ending: Ending) -> None:
        """Write it."""
        if ending.state == "finished":
            write_report_quietly(self.run)


class BaselineSink(Sink):
    """Says at the end of a run how the linear model of its dataset does, if ``DATA/baseline`` is there: on the console
    and with the trackers.
    """

    def __init__(self, run: str | Path, data: str | Path, others: Sink) -> None:
        """The figures go to ``others``, which must still be open; so this sink comes first."""
        self.run, self.data, self.others = Path(run), data, others

    def close(self, ending: Ending) -> None:
        """Read what the run left. What is damaged becomes one line, since the run is over and well."""
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
