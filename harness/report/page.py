# SPDX-License-Identifier: Apache-2.0
"""``padless report RUN [RUN …]``: makes one HTML file of run directories, without network access or scripts.

Every run ends with a report; a failure to write it does not fail the run.
"""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from harness.config import LANGUAGE_MODEL, flat
from harness.inference import explanation
from harness.report import many
from harness.report.mistakes import find_originals, mistakes_of
from harness.report.plots import (
    SLOTS,
    capital,
    curves_of,
    learning_charts,
    quality_charts,
    shown_split,
)
from harness.report.runs import (
    RunFacts,
    best_values,
    dataset_groups,
    differences,
    differing,
    ranked,
    ranking_figure,
    ranks,
    read_run,
    unique_names,
)
from harness.rundir.layout import REPORT, members
from harness.rundir.records import installed_version
from harness.rundir.training_facts import split_facts
from harness.scores.figures import FIGURES, title_of
from harness.scores.metrics import confusion_from_json, largest_confusions, worst_first
from preprocessing.base import atomic
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import duration, printable, public, public_values, tell

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""``generator`` of a report."""
MATRIX_CLASSES = 20
"""Maximum number of classes for a whole confusion matrix; beyond it only the largest cells are shown."""
LISTED_CONFUSIONS = 12


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML report about one run, or comparing several.

    For a folder of train --seeds or --folds, the report shows the spread of its runs.
    """

    SUBJECT = ("run",)
    run: list[str]
    """Run directories, or folders of train --seeds or --folds."""
    output: str | None = None
    """File to write; RUN/report.html for one run, or one folder of runs, report.html in the current directory for
    several."""
    overwrite: bool = False
    """Replace an existing file that is not a report."""
    open: bool = False
    """Show it in the browser."""


def main(config: ReportConfig) -> None:
    """Write the report of the given runs, print its path, and open it if that is asked for."""
    path = write_report(config.run, config.output, overwrite=config.overwrite)
    print(f"written to {path}")
    if config.open and not webbrowser.open(path.absolute().as_uri()):
        print(f"no browser can be opened here; open {path.absolute()} in yours")


def write_report(runs: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of ``runs`` and return its path.

    Raises ``DataError`` for a path that is not a run or has no metrics, ``ConfigError`` for an existing file that is
    not a report, without ``overwrite``.
    """
    inside = {place: members(place) for place in map(Path, runs)}
    first, *others = inside
    spread = many.together(first, inside[first]) if inside[first] and not others else None
    of_places = inside if spread is None else {first: spread["runs"]}
    facts = [read_run(path) for place, found in of_places.items() for path in [one.path for one in found] or [place]]
    target = Path(output or (REPORT if others else first / REPORT))
    atomic.check_replaced(target, overwrite, [GENERATOR])
    page = render(facts, spread)
    with atomic.storing(target, otherwise="name another --output"):
        atomic.write_text(target, page)
    return target


def write_report_quietly(run: str | Path) -> None:
    """Write the report at the end of a run; any error becomes one warning and does not fail the run."""
    try:
        write_report([run])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        tell(f"warning: no report written ({reason}); padless report {run} tries again")


def render(runs: Sequence[RunFacts], spread: dict[str, Any] | None = None) -> str:
    """The page; ``spread`` is the result of ``many.together`` for ``runs``, which then keep their order.

    The template escapes every text except charts. Control characters are escaped visibly.
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
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"
    if spread is not None:
        folder = spread["runs"][0].path.resolve().parent.name
        title = f"{folder}: {len(runs)} {spread['kind']}{'s' if len(runs) > 1 else ''}"
    style = (FOLDER / STYLE).read_text(encoding="utf-8") + explanation.STYLE
    page = {
        "title": title,
        "head": explanation.page_head(f"{title} · padless", GENERATOR, style),
        "spread": spread,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": installed_version("padless") or "from a checkout",
        "metrics": titles(()),
        "runs": views,
        "learning": learning_charts(runs, names),
        "quality": quality_charts(runs, names, [each["curves"] for each in views]),
        "split": shown_split(runs),
        "differing": differing(runs),
        "pairs": differences(runs, names) if spread is None else [],
        "groups": groups,
        "apart": len(set(groups)) > 1,
        "ranks": ranks(runs) if spread is None else [str(one.number) for one in spread["runs"]],
        "ranked_by": FIGURES[ranking_figure(runs)].title,
        "best": best_values(runs) if spread is None else {},
        "slots": SLOTS,
    }
    return printable(explanation.unix_lines(environment.get_template(TEMPLATE).render(page)))


def titles(labels: Sequence[str]) -> dict[str, str]:
    """Key -> title of the figures of a classifier with these classes."""
    return {
        name: capital(title_of(name, labels)) for name in FIGURES if name not in ("calibrated_log_loss", "perplexity")
    }


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """The template's variables of one run, charts excepted."""
    curves, labels, manifest = curves_of(run), run.labels, run.manifest
    splits = {} if manifest is None else split_facts(manifest)
    config = public_values(manifest.provenance.get("config")) if manifest is not None else None
    shown: dict[str, Any] = {"split": None, "figures": None}
    if run.measured is not None:
        figures = run.measured.figures
        originals = find_originals(manifest, [entry["row"] for entry in figures["mistakes"]])
        recalls = {entry["name"]: entry["accuracy_interval"] for entry in figures["slices"] if entry["by"] == "label"}
        shown = {
            "split": run.measured.split,
            "figures": figures,
            "mistakes": mistakes_of(figures, originals, manifest, str(run.config["data"])),
            "no_texts": originals.missing,
            "classes": worst_first(figures["per_class"]),
            "recalls": recalls,
            "trained": splits[TRAIN]["labels"] if TRAIN in splits else {},
            "matrix": confusion_from_json(figures, len(labels)).toarray() if len(labels) <= MATRIX_CLASSES else [],
            "confusions": confusions(figures),
            "slices": [entry for entry in figures["slices"] if entry["by"] != "label"],
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
        "splits": splits,
        "verdicts": [line for line in run.speed if line.get("verdict")],
        "dataset_config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None,
        **shown,
    }


def confusions(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions of a true and a predicted class, the largest first."""
    labels = figures["labels"]
    confusion = confusion_from_json(figures, len(labels))
    support = confusion.sum(axis=1).tolist()
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / support[true]}
        for true, said, rows in largest_confusions(confusion, LISTED_CONFUSIONS)
    ]


FILTERS: dict[str, Callable[..., Any]] = {
    "figure": lambda value, digits=4: "not defined" if value is None else f"{value:.{digits}f}",
    "public": public,
    "quoted": lambda place: shlex.quote(str(place)),
    "short": lambda value: "–" if value is None else f"{value:.3f}",
    "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
    "count": lambda value: f"{value:,}",
    "mebibytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "moment": lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    "duration": duration,
}
"""Name in the template -> function that formats a value."""
