# SPDX-License-Identifier: Apache-2.0
"""What is made beside a run: the TF-IDF baseline, fitted in the background, and at the end the report."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness.baselines.measured import FOLDER, find_results
from harness.baselines.tfidf import estimate_seconds, names_of
from harness.config import CLASSIFIER, RunConfig
from harness.metrics.figures import scalar_figures
from harness.output.report import write_report_quietly
from harness.output.run_facts import compare_linear
from harness.rundir.events import Observer
from harness.rundir.layout import writable_path
from harness.rundir.records import Ending
from padless.core.errors import DataError, UserError
from padless.core.processes import start_child
from padless.core.signals import STOP
from padless.core.terminal import print_stderr
from preprocessing.dataset.views import read_data

SUMMARY = "baseline"
"""Prefix of the TF-IDF baseline's figures in trackers: ``baseline/accuracy`` and so on."""
MAX_FIT_S = 60.0
"""A fit with a longer estimate is left out."""
END_S, KILLED_S = 20.0, 5.0
"""Longest wait for the fit at the end of a run, and for its end when it was killed."""
NICENESS = 19
FIRST_VICTIM = "1000"
"""``oom_score_adj`` (proc(5)): where memory runs out, the kernel kills this process, not the training."""


class RunReport(Observer):
    """Fits the TF-IDF baseline in the background of a run; at its end, sends the comparison to console and trackers,
    and writes ``report.html``.

    The fit is ``padless baseline``, a process with the least priority, one thread, and no way to fail the run.
    """

    def __init__(self, config: RunConfig, target: Observer) -> None:
        """The figures go to ``target``, which must be closed after this observer."""
        self.config, self.target = config, target
        self.fit: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start to fit it, unless it was fitted before or would take long. Errors wait for the end."""
        data, run = self.config.data, self.config.run
        if self.config.baseline != "auto" or self.config.task != CLASSIFIER:
            return
        with suppress(OSError, UserError):
            manifest = read_data(data)
            is_measured = len(find_results(Path(run), data, manifest.fingerprint)[1]) == len(names_of(manifest))
            if not is_measured and estimate_seconds(manifest) <= MAX_FIT_S:
                words = ["-m", "padless", "baseline", data, "-o", str(writable_path(data, run, FOLDER))]
                self.fit = start_child(*words)
                os.setpriority(os.PRIO_PROCESS, self.fit.pid, NICENESS)
                Path(f"/proc/{self.fit.pid}/oom_score_adj").write_text(FIRST_VICTIM)

    def close(self, ending: Ending) -> None:
        """Report a run that has finished. An error becomes one warning."""
        is_finished = ending.state == "finished"
        if self.fit is not None:
            if is_finished and self.fit.poll() is None:
                self.target.print_text(
                    f"waiting up to {END_S:.0f} s for the TF-IDF baseline (--baseline none leaves it out)"
                )
                until = time.monotonic() + END_S
                while self.fit.poll() is None and time.monotonic() < until and STOP.signal is None:
                    time.sleep(0.1)
            self.fit.kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                self.fit.wait(KILLED_S)
        if is_finished:
            self.compare()
            write_report_quietly(self.config.run)

    def compare(self) -> None:
        """Send the comparison with the TF-IDF baseline, if there is one."""
        try:
            _, comparison = compare_linear(Path(self.config.run), self.config.data)
        except DataError as error:
            print_stderr(f"warning: no comparison with the TF-IDF baseline ({error})")
            return
        if comparison is not None:
            accuracy, difference = comparison.linear["accuracy"], comparison.difference
            self.target.print_text(f"{comparison.verdict} (accuracy {accuracy:.4f}): {comparison.points}")
            bounds = {"difference_low": comparison.low, "difference_high": comparison.high}
            self.target.log(SUMMARY, {**scalar_figures(comparison.linear), "difference": difference, **bounds})
