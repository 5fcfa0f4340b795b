# SPDX-License-Identifier: Apache-2.0
"""``python -m harness report RUN [RUN …]``: run directories → one HTML file that needs no network and no script.

It is also written at the end of every run, where it can fail nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.inference.word_marks import page_head, unix_lines
from harness.report import many
from harness.report.charts import SLOTS
from harness.report.classes import LISTED_CLASSES, SMALL_MATRIX, metric_names
from harness.report.embedded import page_numbers, script_json
from harness.report.facts import RunFacts, read_run
from harness.report.formats import FILTERS
from harness.report.plots import learning_charts, quality_charts, shown_split, speed_charts
from harness.report.ranking import best_values, dataset_groups, differing, ranked, ranking_metric, ranks, unique_names
from harness.report.views import view
from harness.rundir import layout
from harness.rundir.layout import REPORT, holds_run
from harness.rundir.records import installed_version
from harness.scores.figures import FIGURES
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
from preprocessing.base.printable import printable, tell
from preprocessing.base.storage import check_replaced, storing

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""What a report says that it was made by."""


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
    be replaced, or is one of a run.
    """
    places = [Path(run) for run in dict.fromkeys(str(Path(run)) for run in runs)]
    found = [layout.members(place) for place in places]
    spread = many.together(places[0], found[0]) if len(places) == 1 and found[0] else None
    shown = [[one.path for one in inside] or [place] for place, inside in zip(places, found, strict=True)]
    shown = shown if spread is None else [[one.path for one in spread["runs"]]]
    facts = [read_run(path) for paths in shown for path in paths]
    target = Path(output) if output is not None else places[0] / REPORT if len(places) == 1 else Path(REPORT)
    is_report = atomic.says(target, GENERATOR)
    above = list(target.resolve().parents)[:2]
    if target.is_file() and not is_report and target.name != REPORT and any(map(holds_run, above)):
        raise ConfigError(f"--output {target}: is a file of a run, from which reports are made; name another file")
    check_replaced(target, overwrite, lambda: is_report)
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
    names = unique_names(runs)
    groups = dataset_groups(runs)
    views = [view(run, name) for run, name in zip(runs, names, strict=True)]
    metrics = metric_names(max(len(each["labels"]) for each in views))
    title = title_of(runs, names, spread)
    page = {
        "title": title,
        "head": page_head(f"{title} · padless", GENERATOR, (FOLDER / STYLE).read_text(encoding="utf-8")),
        "spread": spread,
        "numbering": "rank" if spread is None else spread["kind"],
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": installed_version("padless") or "from a checkout",
        "metrics": metrics,
        "runs": views,
        "learning": learning_charts(runs, names),
        "speed": speed_charts(runs, names),
        "quality": quality_charts(runs, names),
        "split": shown_split(runs),
        "differing": differing(runs),
        "groups": groups,
        "apart": len(set(groups)) > 1,
        "ranks": ranks(runs) if spread is None else [str(one.number) for one in spread["runs"]],
        "many_labels": any(len(each["labels"]) > 2 for each in views),
        "ranked_by": FIGURES[ranking_metric(runs)].title,
        "best": best_values(runs, list(metrics)) if spread is None else {},
        "slots": SLOTS,
        "listed": LISTED_CLASSES,
        "small_matrix": SMALL_MATRIX,
        "numbers": script_json(
            page_numbers(runs, names, [each["mistakes"] for each in views], spread and spread["values"])
        ),
    }
    return printable(unix_lines(environment.get_template(TEMPLATE).render(page)))


def title_of(runs: Sequence[RunFacts], names: Sequence[str], spread: dict[str, Any] | None) -> str:
    """What the page is called."""
    if spread is not None:
        kind, folder = spread["kind"], spread["runs"][0].path.resolve().parent.name
        return f"{folder}: {len(runs)} {kind}{'s' if len(runs) > 1 else ''}"
    return names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"
