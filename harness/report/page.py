# SPDX-License-Identifier: Apache-2.0
"""``python -m harness report RUN [RUN …]``: run directories → one HTML file that needs no network and no script.

It is also written at the end of every run, where it can fail nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.inference import explanation
from harness.report import many
from harness.report.plots import SLOTS, averaged, learning_charts, quality_charts, shown_split, speed_charts
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
from harness.report.views import LISTED_CLASSES, SMALL_MATRIX, titles, view
from harness.rundir.layout import REPORT, holds_run, members
from harness.rundir.records import installed_version
from harness.scores.figures import FIGURES
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import duration, printable, public, tell

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""What a report says that it was made by."""
FORMAT, FORMAT_VERSION = "padless-report", 1
CURVES = {"loss": "train", "lr": "train", "grad_norm": "train", "padding": "train"}
CURVES |= {"tokens_per_s": "speed", "data_wait": "speed", "mfu": "speed"}
"""Figure among the numbers of a page -> the lines that hold it."""
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
    be replaced, or is one of a run.
    """
    places = [Path(run) for run in dict.fromkeys(str(Path(run)) for run in runs)]
    found = [members(place) for place in places]
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
    names, groups = unique_names(runs), dataset_groups(runs)
    views = [view(run, name) for run, name in zip(runs, names, strict=True)]
    title = title_of(runs, names, spread)
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
        "speed": speed_charts(runs, names),
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


def title_of(runs: Sequence[RunFacts], names: Sequence[str], spread: dict[str, Any] | None) -> str:
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
