# SPDX-License-Identifier: Apache-2.0
"""Event sinks around a run: the linear model beside it, fitted in the background, and its report at the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from harness.baseline.linear import seconds
from harness.baseline.results import find_results, names_of
from harness.config import RunConfig
from harness.ranks import stopping
from harness.report.page import write_report_quietly
from harness.report.runs import beside_linear
from harness.scores.figures import numbers_of
from harness.training.writer import Ending, Sink
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.processes import PARENT
from preprocessing.base.terminal import duration, tell
from preprocessing.dataset.shards import read_manifest

SUMMARY = "baseline"
"""Prefix of the linear model's figures in trackers: ``baseline/accuracy`` and so on."""
LONGEST_S = 60.0
"""A fit with a longer estimate is left out."""
END_S = 20.0
"""Longest wait for the fit at the end of a run."""
KILLED_S = 1.0
LOOK_EVERY_S = 0.1
NICENESS = 19
FIRST_VICTIM = "1000"
"""``oom_score_adj`` (proc(5)): where memory runs out, the kernel kills this process, not the training."""


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
    """Fits the linear model in the background, and sends its figures to console and trackers at the end of a run.

    The fit is ``padless baseline``, a process with the least priority, one thread, and no way to fail the run.
    """

    def __init__(self, config: RunConfig, others: Sink) -> None:
        """The figures go to ``others``, which must be closed after this sink."""
        self.config, self.others = config, others
        self.process: subprocess.Popen[bytes] | None = None
        self.missing = ""
        """Why there is no linear model."""

    def begin(self) -> None:
        """Start to fit it, unless it was fitted before or would take long."""
        if self.config.baseline == "auto":
            try:
                self.start()
            except (OSError, UserError) as error:
                self.missing = " ".join(str(error).split())

    def start(self) -> None:
        """Raises ``OSError`` or ``DataError``."""
        data, run, folds = self.config.data, Path(self.config.run), self.config.fold is not None
        manifest = read_manifest(data)
        names = names_of(manifest, folds=folds)
        if len(find_results(run, data, manifest.fingerprint, names)[1]) == len(names):
            return
        if (estimate := seconds(manifest) * (len(names) if folds else 1)) > LONGEST_S:
            self.missing = f"it takes about {duration(estimate)}"
            return
        words = ["baseline", "--data", data, "--run", str(run), *["--folds"] * folds]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1"},
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)
            Path(f"/proc/{self.process.pid}/oom_score_adj").write_text(FIRST_VICTIM)

    def close(self, ending: Ending) -> None:
        """Report the comparison. An error becomes one warning, since the run has finished."""
        if self.process is not None:
            self.end(self.process, END_S if ending.state == "finished" else 0.0)
        if ending.state != "finished":
            return
        try:
            found = beside_linear(Path(self.config.run), self.config.data)[1]
        except DataError as error:
            tell(f"warning: no comparison with the linear model ({error})")
            return
        if found is None:
            if self.missing:
                again = f"padless baseline {self.config.data}{' --folds' * (self.config.fold is not None)}"
                self.others.say(f"no linear model beside this run: {self.missing}; {again} fits it, or says why not")
            return
        self.others.say(f"{found.verdict} (accuracy {found.linear['accuracy']:.4f}): {found.points}")
        bounds = {"difference_low": found.low, "difference_high": found.high}
        self.others.log(SUMMARY, {**numbers_of(dict(found.linear)), "difference": found.difference, **bounds})

    def end(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        """Wait at most so long for the fit, less after a stop signal, then kill it."""
        if limit_s and process.poll() is None:
            self.others.say(f"waiting up to {limit_s:.0f} s for the linear model (--baseline none leaves it out)")
        until = time.monotonic() + limit_s
        while process.poll() is None and time.monotonic() < until and stopping.received() is None:
            time.sleep(LOOK_EVERY_S)
        if process.poll() is None:
            process.kill()
            self.missing = "it was not ready in time"
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel is left running
                process.wait(KILLED_S)
        elif process.returncode:
            self.missing = f"its process ended with {process.returncode}"
