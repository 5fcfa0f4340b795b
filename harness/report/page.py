# SPDX-License-Identifier: Apache-2.0
"""``python -m harness report RUN [RUN …]``: run directories → one HTML file that needs no network and no script.

It is also written at the end of every run, where it can fail nothing.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.config import flat
from harness.report.charts import Chart, Series, draw
from harness.report.facts import RunFacts, averaged, differing, read_run
from harness.rundir.environment import installed_version
from harness.rundir.layout import CONFIG, REPORT
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
from preprocessing.base.readable import duration

TEMPLATE = "report.html.j2"
METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "Log loss",
    "ece": "Calibration error",
}
LOWER_IS_BETTER = ("log_loss", "ece")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write what is known of runs into one HTML file; several runs are compared side by side."""

    output: str | None = None
    """File to write; RUN/report.html for one run, report.html in the current directory for several."""


def main(config: ReportConfig, runs: list[str]) -> None:
    """Write the report of the runs named and say where it is."""
    print(f"written to {write_report(runs, config.output)}")


def write_report(runs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write the report of ``runs`` and return its path. Raises ``DataError`` for what is no run or has no metrics."""
    places = [Path(run) for run in dict.fromkeys(str(Path(run)) for run in runs)]
    facts = [read_run(place) for place in places]
    target = Path(output) if output is not None else places[0] / REPORT if len(places) == 1 else Path(REPORT)
    try:
        atomic.write_text(target, render(facts))
    except OSError as error:
        raise ConfigError(f"--output {target}: {error.strerror}; name a file that can be written") from None
    return target


def write_report_quietly(run: str | Path) -> None:
    """The report at the end of a run: whatever goes wrong becomes one line, never a failure of the run."""
    try:
        write_report([run])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: no report written ({reason}); python -m harness report {run} tries again", file=sys.stderr)


def render(runs: Sequence[RunFacts]) -> str:
    """The page. Every text is escaped by the template; only charts go in as they are."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=figure, share=share, moment=moment, duration=duration, mebibytes=mebibytes, count=count
    )
    names = unique_names(runs)
    page = {
        "title": names[0] if len(runs) == 1 else f"{len(runs)} runs side by side",
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": installed_version("padless") or "from a checkout",
        "metrics": METRICS,
        "runs": [view(run, name) for run, name in zip(runs, names, strict=True)],
        "learning": learning_charts(runs, names),
        "speed": speed_charts(runs, names),
        "quality": quality_charts(runs, names),
        "differing": differing(runs),
        "groups": dataset_groups(runs),
        "best": best_values(runs),
        "many_labels": any(run.test is not None and len(run.test["labels"]) > 2 for run in runs),
    }
    return environment.get_template(TEMPLATE).render(page)


def unique_names(runs: Sequence[RunFacts]) -> list[str]:
    """Directory names, or whole paths where two runs have the same name."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.directory) for name, run in zip(names, runs, strict=True)]


def dataset_groups(runs: Sequence[RunFacts]) -> list[int]:
    """For each run the number of its dataset; a run whose dataset is not known is a group of its own."""
    known: dict[str, int] = {}
    keys = [run.fingerprint or f"unknown {place}" for place, run in enumerate(runs)]
    return [known.setdefault(key, len(known)) for key in keys]


def best_values(runs: Sequence[RunFacts]) -> dict[str, float]:
    """The best value of each metric, where at least two runs have it on the same dataset."""
    tests = [run.test for run in runs if run.test is not None]
    if len(tests) < 2 or len(set(dataset_groups(runs))) > 1:
        return {}
    values = {name: [test[name] for test in tests if test[name] is not None] for name in METRICS}
    return {name: (min if name in LOWER_IS_BETTER else max)(some) for name, some in values.items() if some}


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """What the template shows of one run, beside its charts."""
    return {
        "name": name,
        "facts": run,
        "settings": flat(run.config),
        "state": run.status.get("state", "unknown"),
        "step": run.status.get("step") or run.train[-1]["step"] if run.train else 0,
        "splits": split_rows(run),
        "verdicts": [line for line in run.speed if line.get("verdict")],
        "mistakes": [{**mistake, "words": weighed(mistake)} for mistake in run.test["mistakes"]] if run.test else [],
        "confusion": confusion_rows(run.test) if run.test else [],
        "reproduce": reproduce(run),
        "dataset_config": dataset_config(run),
    }


def split_rows(run: RunFacts) -> list[dict[str, Any]]:
    """Rows, label shares, tokens and lengths of each split, from the manifest."""
    if run.manifest is None:
        return []
    result = []
    for name, shards in run.manifest.splits.items():
        rows = run.manifest.rows(name)
        labels: dict[int, int] = {}
        lengths: dict[int, int] = {}
        for shard in shards:
            for counts, total in ((shard.labels, labels), (shard.lengths, lengths)):
                for value, count in counts.items():
                    total[int(value)] = total.get(int(value), 0) + count
        ordered = sorted(lengths)
        below = np.cumsum([lengths[length] for length in ordered])
        known = run.manifest.statistics.get("splits", {}).get(name, {})
        result.append(
            {
                "name": name,
                "rows": rows,
                "labels": [labels.get(number, 0) / rows for number in range(len(run.manifest.labels))],
                "tokens": sum(shard.tokens for shard in shards),
                "median": ordered[int(np.searchsorted(below, rows / 2))],
                "longest": ordered[-1],
                "truncated": known["truncated"] / rows if "truncated" in known else None,
                "unknown": known.get("unknown_rate"),
            }
        )
    return result


def weighed(mistake: dict[str, Any]) -> list[tuple[str, float]]:
    """Each word with its weight as a share of the text's largest, from -1 to 1."""
    largest = max((abs(weight) for weight in mistake["weights"]), default=0.0) or 1.0
    return [(word, weight / largest) for word, weight in zip(mistake["tokens"], mistake["weights"], strict=True)]


def confusion_rows(test: dict[str, Any]) -> list[dict[str, Any]]:
    """For each true label the count of each predicted one, and its share of the row."""
    rows = zip(test["labels"], test["confusion"], strict=True)
    return [
        {"label": label, "cells": [(count, count / max(sum(counts), 1)) for count in counts]} for label, counts in rows
    ]


def reproduce(run: RunFacts) -> list[str]:
    """Commands that make the run again, as a shell reads them."""
    environment = run.environment
    lines = []
    if revision := environment.get("git_revision"):
        clean = revision.removesuffix("-dirty")
        changed = "" if clean == revision else "   # and changes that were not committed"
        lines.append(f"git checkout {clean}{changed}")
    if versions := environment.get("versions"):
        lines.append("# " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    config = run.directory / CONFIG
    processes = str(environment.get("effective", {}).get("processes", "1")).partition(":")[0].split()[0]
    options = f"--config {shlex.quote(str(config))} --run {shlex.quote(f'{run.directory}-again')}"
    several = f"--num_processes {processes} " if processes != "1" else ""
    lines.append(f"python -m harness launch {several}{options}")
    return lines


def dataset_config(run: RunFacts) -> str | None:
    """The configuration of the preprocessing, as YAML; None without a manifest."""
    config = run.manifest.provenance.get("config") if run.manifest else None
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Loss and validation over the steps; runs overlaid."""
    loss, log_loss, accuracy = [], [], []
    for slot, (run, name) in enumerate(zip(runs, names, strict=True)):
        loss.append(Series(name if len(runs) > 1 else "training", *averaged(run.train, "loss"), slot))
        log_loss.append(Series(name if len(runs) > 1 else "validation", *averaged(run.validation, "log_loss"), slot))
        accuracy.append(Series(name, *averaged(run.validation, "accuracy"), slot))
    if len(runs) == 1:
        both = [loss[0], Series("validation", log_loss[0].x, log_loss[0].y, 1)]
        charts = [draw("Loss", both, "step", "log loss", y_range=(0, None))]
    else:
        charts = [
            draw("Training loss", loss, "step", "log loss", y_range=(0, None)),
            draw("Validation loss", log_loss, "step", "log loss"),
        ]
    charts.append(draw("Validation accuracy", accuracy, "step", "accuracy", percent=True))
    if len(runs) == 1:
        charts.append(draw("Learning rate", [Series("rate", *averaged(runs[0].train, "lr"))], "step", "learning rate"))
    return [chart for chart in charts if chart is not None]


def speed_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Tokens per second, waiting and padding over the steps; runs overlaid."""
    tokens = [Series(name, *averaged(run.speed, "tokens_per_s"), slot) for slot, (run, name) in pairs(runs, names)]
    waits = [Series(name, *averaged(run.speed, "data_wait"), slot) for slot, (run, name) in pairs(runs, names)]
    padding = [Series(name, *averaged(run.train, "padding"), slot) for slot, (run, name) in pairs(runs, names)]
    charts = [draw("Throughput", tokens, "step", "tokens/s", y_range=(0, None))]
    if len(runs) == 1:
        both = [
            Series("waiting for data", waits[0].x, waits[0].y, 0),
            Series("padding computed", padding[0].x, padding[0].y, 1),
        ]
        charts.append(draw("Data wait and padding", both, "step", "share", percent=True, y_range=(0, None)))
    else:
        charts.append(draw("Data wait", waits, "step", "share of time", percent=True, y_range=(0, None)))
        charts.append(draw("Padding", padding, "step", "share of what is computed", percent=True, y_range=(0, None)))
    return [chart for chart in charts if chart is not None]


def quality_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """ROC, precision-recall and calibration on the test split; runs overlaid, or the classes of one run."""
    roc, pr, reliability = [], [], []
    for slot, (run, name) in pairs(runs, names):
        if run.test is None:
            continue
        alone, two_labels = len(runs) == 1, len(run.test["labels"]) == 2
        for number, (label, curve) in enumerate((run.curves or {}).items()):
            if alone or two_labels:  # the classes of several runs would be one tangle of lines
                of, place = (label, number) if alone else (name, slot)
                roc.append(Series(of, *curve["roc"], place))
                pr.append(Series(of, *curve["pr"], place))
        after = bins_of(run.test["calibration"]["after"])
        if alone:
            before = bins_of(run.test["calibration"]["before"])
            reliability.append(Series("before temperature scaling", *before, 1, "dashed"))
        reliability.append(Series("after temperature scaling" if alone else name, *after, slot))
    lowest = min((min(item.x) for item in reliability), default=0.0)
    whole, edge = (0.0, 1.0), (0.0, 1.02)
    wrong, right = "false positive rate", "true positive rate"
    charts = [
        draw("ROC", roc, wrong, right, percent=True, diagonal=whole, y_range=edge, dots=False),
        draw("Precision and recall", pr, "recall", "precision", percent=True, y_range=edge, dots=False),
        draw("Calibration", reliability, "confidence", "accuracy", percent=True, diagonal=(lowest, 1.0)),
    ]
    return [chart for chart in charts if chart is not None]


def bins_of(bins: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of each bin of a reliability diagram."""
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]


def pairs(runs: Sequence[RunFacts], names: Sequence[str]) -> Iterable[tuple[int, tuple[RunFacts, str]]]:
    """``(slot, (run, name))`` for every run."""
    return enumerate(zip(runs, names, strict=True))


def figure(value: float | None, digits: int = 4) -> str:
    """A metric as it is read."""
    return "not defined" if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{value:.{digits}%}"


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:,.0f} MiB"


def moment(seconds: float) -> str:
    """A time stamp in seconds as a date in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
