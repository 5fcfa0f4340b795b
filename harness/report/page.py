# SPDX-License-Identifier: Apache-2.0
"""``python -m harness report RUN [RUN …]``: run directories → one HTML file that needs no network and no script.

It is also written at the end of every run, where it can fail nothing.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.config import LANGUAGE_MODEL, flat
from harness.inference import explanation
from harness.report import many
from harness.report.mistakes import mistakes_of
from harness.report.plots import (
    SLOTS,
    averaged,
    capital,
    curves_of,
    learning_charts,
    quality_charts,
    shown_split,
    worst_first,
)
from harness.report.runs import (
    RunFacts,
    best_values,
    dataset_groups,
    differing,
    ranked,
    ranking_figure,
    ranks,
    read_run,
    unique_names,
)
from harness.rundir.layout import CONFIG, REPORT, members
from harness.rundir.records import installed_version
from harness.rundir.training_facts import split_facts
from harness.scores.figures import FIGURES, title_of
from harness.scores.metrics import confusion_from_json, largest_confusions
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import duration, printable, public, public_values, tell
from preprocessing.dataset.shards import Manifest

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""What a report says that it was made by."""
FORMAT, FORMAT_VERSION = "padless-report", 1
CURVES = {"loss": "train", "lr": "train", "grad_norm": "train", "padding": "train"}
CURVES |= {"tokens_per_s": "speed", "data_wait": "speed"}
"""Figure among the numbers of a page -> the lines that hold it."""
MATRIX_CLASSES = 20
"""Most classes whose confusion matrix is shown; beyond that only its largest cells are."""
SMALL_MATRIX = 6
"""Up to so many classes the matrix is all there is to say, and it fits a telephone."""
LISTED_CLASSES = 20
"""Classes that are shown at once; all of them when the reader asks."""
LISTED_CONFUSIONS = 12
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write what is known of runs into one HTML file; several runs are compared side by side.

    The folder of launch --seeds or --folds shows the spread of its runs.
    """

    output: str | None = None
    """File to write; RUN/report.html for one run, or one folder of runs, report.html in the current directory for
    several."""
    overwrite: bool = False
    """Replace a file that is there and is no report."""


def main(config: ReportConfig, runs: list[str]) -> None:
    """Write the report of the runs named and say where it is."""
    print(f"written to {write_report(runs, config.output, overwrite=config.overwrite)}")


def write_report(runs: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of ``runs`` and return its path.

    Raises ``DataError`` for what is no run or has no metrics, ``ConfigError`` for a file of something else that may not
    be replaced.
    """
    places = [Path(run) for run in dict.fromkeys(str(Path(run)) for run in runs)]
    found = [members(place) for place in places]
    spread = many.together(places[0], found[0]) if len(places) == 1 and found[0] else None
    shown = [[one.path for one in inside] or [place] for place, inside in zip(places, found, strict=True)]
    shown = shown if spread is None else [[one.path for one in spread["runs"]]]
    facts = [read_run(path) for paths in shown for path in paths]
    target = Path(output) if output is not None else places[0] / REPORT if len(places) == 1 else Path(REPORT)
    check_replaced(target, overwrite, lambda: atomic.says(target, GENERATOR))
    page = render(facts, spread)
    with storing(target, otherwise="name another --output"):
        atomic.write_text(target, page)
    return target


def write_report_quietly(run: str | Path) -> None:
    """The report at the end of a run: whatever goes wrong becomes one line, never a failure of the run."""
    try:
        write_report([run])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        tell(f"warning: no report written ({reason}); python -m harness report {run} tries again")


def render(runs: Sequence[RunFacts], spread: dict[str, Any] | None = None) -> str:
    """The page; ``spread`` is what ``many.together`` says of ``runs``, which then keep their order.

    Every text is escaped by the template; only charts and the numbers in JSON go in as they are. Control characters
    are spelt.
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
    runs = ranked(runs) if spread is None else runs
    names, groups = unique_names(runs), dataset_groups(runs)
    views = [view(run, name) for run, name in zip(runs, names, strict=True)]
    title = page_title(runs, names, spread)
    style = (FOLDER / STYLE).read_text(encoding="utf-8") + explanation.STYLE
    page = {
        "title": title,
        "head": explanation.page_head(f"{title} · padless", GENERATOR, style),
        "spread": spread,
        "numbering": "rank" if spread is None else spread["kind"],
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": installed_version("padless") or "from a checkout",
        "metrics": titles(()),
        "runs": views,
        "learning": learning_charts(runs, names),
        "quality": quality_charts(runs, names, [each["curves"] for each in views]),
        "split": shown_split(runs),
        "differing": differing(runs),
        "groups": groups,
        "apart": len(set(groups)) > 1,
        "ranks": ranks(runs) if spread is None else [str(one.number) for one in spread["runs"]],
        "many_labels": any(len(each["labels"]) > 2 for each in views),
        "ranked_by": FIGURES[ranking_figure(runs)].title,
        "best": best_values(runs) if spread is None else {},
        "slots": SLOTS,
        "listed": LISTED_CLASSES,
        "small_matrix": SMALL_MATRIX,
        "numbers": script_json(page_numbers(views, spread)),
    }
    return printable(explanation.unix_lines(environment.get_template(TEMPLATE).render(page)))


def titles(labels: Sequence[str]) -> dict[str, str]:
    """The figures of a classifier, by what a page calls them for these classes."""
    return {
        name: capital(title_of(name, labels)) for name in FIGURES if name not in ("calibrated_log_loss", "perplexity")
    }


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """Everything but charts, by the names that the template uses."""
    curves = curves_of(run)
    measured, labels = run.measured, run.labels
    shown: dict[str, Any] = {"split": None, "figures": None, "mistakes": [], "classes": [], "matrix": []}
    if measured is not None:
        shown = {
            "split": measured.split,
            "figures": measured.figures,
            "mistakes": mistakes_of(measured.figures, run.originals, run.manifest),
            "classes": class_rows(measured.figures, run.manifest),
            "matrix": matrix(measured.figures),
            "confusions": confusions(measured.figures),
            "slices": [entry for entry in measured.figures["slices"] if entry["by"] != "label"],
            "coloured": {label: slot for slot, label in enumerate(curves)} if len(labels) > 2 else {},
        }
    return {
        "name": name,
        "facts": run,
        "labels": labels,
        "curves": curves,
        "pretrained": run.config.get("task") == LANGUAGE_MODEL,
        "metrics": titles(labels),
        "settings": flat(run.config),
        "state": run.status.get("state", "unknown"),
        "step": run.status.get("step") or run.train[-1]["step"] if run.train else 0,
        "splits": [] if run.manifest is None else split_rows(run.manifest),
        "verdicts": [line for line in run.speed if line.get("verdict")],
        "reproduce": reproduce(run),
        "evaluate": evaluate_command(run),
        "dataset_config": dataset_config(run),
        **shown,
    }


def split_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Rows, rows of each class, tokens and lengths of each split."""
    result = []
    for name, known in split_facts(manifest).items():
        lengths, below = list(map(int, known["lengths"])), np.cumsum(list(known["lengths"].values()))
        truncated = manifest.statistics.get("splits", {}).get(name, {}).get("truncated")
        more = {
            "name": name,
            "tokens": sum(shard.tokens for shard in manifest.splits[name]),
            "median": lengths[int(np.searchsorted(below, known["rows"] / 2))],
            "longest": lengths[-1],
            "truncated": None if truncated is None else truncated / known["rows"],
        }
        result.append({**known, **more})
    return result


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
    processes = str(environment.get("effective", {}).get("processes", "1")).partition(":")[0].strip()
    options = f"--config {shlex.quote(str(config))} --run {shlex.quote(f'{run.directory}-again')}"
    several = f"--num_processes {processes} " if processes != "1" else ""
    lines.append(f"python -m harness launch {several}{options}")
    return lines


def evaluate_command(run: RunFacts) -> str:
    """The command that measures the best weights on validation, so that the next report can show that."""
    places = f"--run {shlex.quote(str(run.directory))} --data {shlex.quote(str(run.config['data']))}"
    return f"accelerate launch -m harness.evaluate {places} --split validation"


def dataset_config(run: RunFacts) -> str | None:
    """The configuration of the preprocessing, as YAML; None without a manifest."""
    config = public_values(run.manifest.provenance.get("config")) if run.manifest else None
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None


def class_rows(figures: Mapping[str, Any], manifest: Manifest | None) -> list[dict[str, Any]]:
    """What is known of each class, the worst first: its figures, the interval of its recall, its rows in training."""
    slices = {entry["name"]: entry for entry in figures["slices"] if entry["by"] == "label"}
    trained = split_facts(manifest).get(TRAIN, {}).get("labels", {}) if manifest is not None else {}
    return [
        {
            **entry,
            "interval": slices[entry["label"]]["accuracy_interval"] if entry["label"] in slices else None,
            "trained": trained.get(entry["label"]),
        }
        for entry in worst_first(figures["per_class"])
    ]


def confusions(figures: Mapping[str, Any], most: int | None = LISTED_CONFUSIONS) -> list[dict[str, Any]]:
    """The pairs of a true and another predicted class with the most rows, the largest first."""
    labels = figures["labels"]
    confusion = confusion_from_json(figures, len(labels))
    support = confusion.sum(axis=1).tolist()
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / support[true]}
        for true, said, rows in largest_confusions(confusion, most)
    ]


def matrix(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each true class the count of each predicted one, and its share of the row; empty for too many classes."""
    if len(figures["labels"]) > MATRIX_CLASSES:
        return []
    rows = zip(figures["labels"], confusion_from_json(figures, len(figures["labels"])).toarray().tolist(), strict=True)
    return [
        {"label": label, "cells": [(count, count / max(sum(counts), 1)) for count in counts]} for label, counts in rows
    ]


def page_title(runs: Sequence[RunFacts], names: Sequence[str], spread: dict[str, Any] | None) -> str:
    """What the page is called."""
    if spread is not None:
        kind, folder = spread["kind"], spread["runs"][0].path.resolve().parent.name
        return f"{folder}: {len(runs)} {kind}{'s' if len(runs) > 1 else ''}"
    return names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"


def page_numbers(views: Sequence[Mapping[str, Any]], spread: Mapping[str, Any] | None) -> dict[str, Any]:
    """All that a page shows, in its order, for programs that use the numbers.

    ::

        json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    """
    runs = [run_numbers(each["facts"], each) for each in views]
    numbers = {"format": FORMAT, "format_version": FORMAT_VERSION, "runs": runs}
    return numbers if spread is None else {**numbers, "spread": spread["values"]}


def run_numbers(run: RunFacts, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one run: ``figures`` are those of ``SPLIT.json``, the mistakes with their original texts."""
    figures = shown["figures"]
    if figures is not None:
        figures = {**figures, "mistakes": [{**each.entry, "text": each.text} for each in shown["mistakes"]]}
    curves = {name: averaged(getattr(run, where), name) for name, where in CURVES.items()}
    return {
        "name": shown["name"],
        "directory": str(run.directory),
        "dataset": run.fingerprint,
        "status": run.status,
        "config": run.config,
        "environment": run.environment,
        "split": shown["split"],
        "figures": figures,
        "linear": run.linear,
        "validation": run.validation,
        "curves": {name: {"step": steps, "value": values} for name, (steps, values) in curves.items() if steps},
        "speed": run.speed_summary,
    }


def script_json(value: Any) -> str:
    """``value`` as JSON that may stand inside a script element, which it cannot end; what JSON cannot hold is null."""
    return json.dumps(finite(value), allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def finite(value: Any) -> Any:
    """``value`` with None in place of nan and infinities."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def by_value(values: Sequence[Any]) -> list[tuple[str, list[int]]]:
    """Each value as it is written in a configuration, and the places that have it, from 1."""
    places: dict[str, list[int]] = {}
    for number, value in enumerate(values, 1):
        places.setdefault("null" if value is None else str(value), []).append(number)
    return list(places.items())


def moment(seconds: float) -> str:
    """A time stamp in seconds as a date in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


FILTERS: dict[str, Callable[..., Any]] = {
    "by_value": by_value,
    "figure": lambda value, digits=4: "not defined" if value is None else f"{value:.{digits}f}",
    "public": public,
    "short": lambda value: "–" if value is None else f"{value:.3f}",
    "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
    "count": lambda value: f"{value:,}",
    "mebibytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "moment": moment,
    "duration": duration,
}
"""Name in the template -> function that writes a value."""
