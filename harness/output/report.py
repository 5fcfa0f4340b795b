# SPDX-License-Identifier: Apache-2.0
"""``padless report RUN``: makes one HTML file of a run, or of the runs of one command, without network access or
scripts.

Every run ends with a report; a failure to write it does not fail the run. matplotlib draws each chart as an SVG image,
which the page embeds. A run has the same colour and position in every legend; so has a class in the report of one run.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.baselines.measured import compare_linear, find_results
from harness.baselines.tfidf import estimate_seconds, names_of
from harness.config import CLASSIFIER, RunConfig, flat
from harness.inference import explanation
from harness.metrics.figures import (
    largest_confusions,
    show_figure,
    show_figures,
    warnings_of,
)
from harness.metrics.intervals import wilson
from harness.metrics.metrics import worst_first
from harness.output.charts import MIN_BIN_ROWS, NUM_COLOURS, learning_charts, quality_charts
from harness.output.many_runs import summarize_runs
from harness.output.run_facts import RunFacts, mistakes_of
from harness.rundir.bundle_files import split_facts
from harness.rundir.events import Observer
from harness.rundir.layout import BASELINE, REPORT, members, writable_path
from harness.rundir.records import Ending
from padless.core import atomic
from padless.core.errors import DataError, UserError
from padless.core.installed import VERSION
from padless.core.processes import lower_priority
from padless.core.schema import LocalPath
from padless.core.signals import STOP
from padless.core.split_names import TEST, VALIDATION
from padless.core.terminal import count_noun, duration, print_stderr, public, public_values
from padless.core.untrusted import one_line
from preprocessing.dataset.views import read_data

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
MAX_MATRIX_CLASSES = 20
"""Of a whole confusion matrix; of more classes only the largest cells are shown."""
MAX_FIT_S = 60.0
"""A fit with a longer estimate is left out."""
END_S, KILLED_S = 20.0, 5.0
"""Longest wait for the fit at the end of a run, and for its end when it was killed."""
NICENESS = 19
FIRST_VICTIM = "1000"
"""``oom_score_adj`` (proc(5)): where memory runs out, the kernel kills this process, not the training."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML report about a run.

    For a folder of train --seeds or --folds, the report shows the spread of its runs.
    """

    SUBJECT = ("run",)
    run: LocalPath
    """Run directory, or folder of train --seeds or --folds."""
    output: LocalPath | None = None
    """File to write, by default RUN/report.html, which is replaced."""
    overwrite: bool = False
    """Replace an existing output."""
    open: bool = False
    """Show it in the browser."""


def main(config: ReportConfig) -> None:
    """Write the report of the given run, print its path, and open it if that is asked for."""
    path = write_report(config.run, config.output, overwrite=config.overwrite)
    print(f"written to {path}")
    if config.open and not webbrowser.open(path.absolute().as_uri()):
        print(f"no browser can be opened here; open {path.absolute()} in yours")


def write_report(run: str | Path, output: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of ``run``, a run or a folder of runs, and return its path.

    Raises ``DataError`` for a path that is not a run or has no metrics, ``ConfigError`` for an existing ``output``
    without ``overwrite``.
    """
    started, spread, directories = members(run), None, [Path(run)]
    if started:
        spread = summarize_runs(Path(run), started)
        directories = [member.path for member in spread["runs"]]
    target = Path(output or Path(run) / REPORT)
    atomic.check_replaced(target, overwrite or output is None)
    page = render_page([RunFacts(directory) for directory in directories], spread)
    with atomic.storage_errors(target, otherwise="name another --output"):
        atomic.write_text(target, page)
    return target


def write_report_quietly(run: str | Path) -> None:
    """Write the report at the end of a run; any error becomes one warning and does not fail the run."""
    try:
        write_report(run)
    except Exception as error:
        print_stderr(f"warning: no report written ({one_line(error)}); padless report {run} tries again")


def render_page(runs: Sequence[RunFacts], spread: dict[str, Any] | None) -> str:
    """The page of one run, or of the ``runs`` of which ``spread`` is the result of ``summarize_runs``.

    The template escapes every text except charts and style. Control characters are escaped visibly. A policy forbids
    scripts and loading; it allows the style sheet by its hash, and style attributes, which charts and marks need;
    padless writes every value in them.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["bin_rows"] = MIN_BIN_ROWS
    measured_splits = {run.split for run in runs} - {None}
    chart_split = VALIDATION if measured_splits == {VALIDATION} else TEST
    style = (FOLDER / STYLE).read_text(encoding="utf-8") + explanation.STYLE
    page = {
        "title": runs[0].name if spread is None else f"{spread['folder']}: {count_noun(len(runs), spread['kind'])}",
        "style": style,
        "style_hash": base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        "spread": spread,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": VERSION,
        "runs": runs,
        "details": view_details(runs[0]) if spread is None else None,
        "learning": learning_charts(runs),
        "quality": quality_charts(runs, chart_split),
        "split": chart_split,
        "slots": NUM_COLOURS,
    }
    return explanation.escape_controls(environment.get_template(TEMPLATE).render(page))


def view_details(run: RunFacts) -> dict[str, Any]:
    """The template's variables of a run that has a page of its own: settings, dataset, classes and mistakes."""
    manifest = run.manifest
    config = public_values(manifest.provenance.get("config")) if manifest is not None else None
    details = {
        "settings": flat(run.config),
        "splits": {} if manifest is None else split_facts(manifest),
        "dataset_config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None,
    }
    figures = run.figures
    if figures is None:
        return details
    mistakes, no_texts = mistakes_of(figures["mistakes"], manifest, str(run.config["data"]))
    return details | {
        "warnings": warnings_of(figures),
        "mistakes": mistakes,
        "no_texts": no_texts,
        "classes": worst_first(figures["per_class"]),
        "matrix": matrix_of(figures),
        "confusions": largest_confusions(figures),
    }


def matrix_of(figures: Mapping[str, Any]) -> np.ndarray:
    """Rows of each true class by predicted class, int64 ``[classes, classes]``; empty for too many classes, and with
    several labels to a text.
    """
    number = len(figures["labels"])
    if number > MAX_MATRIX_CLASSES or "thresholds" in figures:
        return np.empty((0, 0))
    true, predicted, rows = np.array(figures["confusion"]).T
    matrix = np.zeros((number, number), np.int64)
    matrix[true, predicted] = rows
    return matrix


FILTERS: dict[str, Callable[..., Any]] = {
    "figure": lambda value, digits=4: "–" if value is None else f"{value:.{digits}f}",
    "public": public,
    "parts_of_name": re.compile(r"(?<=[_/.:])").split,
    "quoted": lambda path: shlex.quote(str(path)),
    "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
    "count": lambda value: f"{value:,}",
    "shown": show_figures,
    "shown_as": show_figure,
    "duration": duration,
    "around_recall": lambda entry: wilson(entry["recall"] * entry["rows"], entry["rows"]),
}
"""Name in the template -> function that formats a value."""


class RunReport(Observer):
    """Fits the TF-IDF baseline in the background of a run; at its end, prints the comparison and writes
    ``report.html``.

    The fit is ``padless baseline``, a process with the least priority, one thread, and no way to fail the run.
    """

    def __init__(self, config: RunConfig, target: Observer) -> None:
        """Sentences go to ``target``, which must be closed after this observer."""
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
                target = str(writable_path(data, run, BASELINE))
                words = [sys.executable, "-m", "padless", "baseline", data, "-o", target]
                null = subprocess.DEVNULL
                self.fit = subprocess.Popen(words, stdin=null, stdout=null, stderr=null)
                lower_priority(self.fit.pid, NICENESS)
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
        """Print the comparison with the TF-IDF baseline, if there is one."""
        try:
            comparison = compare_linear(Path(self.config.run), self.config.data)[1]
        except DataError as error:
            print_stderr(f"warning: no comparison with the TF-IDF baseline ({error})")
            return
        if comparison is not None:
            accuracy = comparison.linear["accuracy"]
            self.target.print_text(f"{comparison.verdict} (accuracy {accuracy:.4f}): {comparison.points}")
