# SPDX-License-Identifier: Apache-2.0
"""The schema of ``SPLIT.json``: what figures are where they are there, so that whoever shows them need not ask."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from preprocessing.base.errors import DataError
from preprocessing.base.typed import Between, Count, having, typed

ROUNDING = 1e-6
Share = Annotated[float, Between(-ROUNDING, 1 + ROUNDING)]
Maybe = Share | None
Loss = Annotated[float, Between(-ROUNDING)]
Interval = list[float] | None
AGAIN = "evaluate the run again"


@dataclass(frozen=True)
class Class:
    """One class of a split."""

    label: str
    rows: Count
    predicted: Count
    precision: Maybe
    recall: Maybe
    f1: Maybe


@dataclass(frozen=True)
class Bin:
    """Rows of similar confidence."""

    rows: Count
    confidence: Share
    accuracy: Share


@dataclass(frozen=True)
class Calibrated:
    """What the temperature did."""

    bins: Count
    ece_before: Maybe
    log_loss_before: Loss | None
    before: list[Bin]
    after: list[Bin]


Slice = Annotated[
    dict[str, Any],
    having(by=str, name=str, rows=Count, accuracy=Maybe, accuracy_interval=Interval, log_loss=Loss | None),
]
Mistake = Annotated[dict[str, Any], having(row=Count, label=str, predicted=str, probability=Share)]


@dataclass(frozen=True)
class Figures:
    """Those keys that others ask for; there may be more, and an older version, or a task, may have left some out."""

    dataset: str = ""
    step: Count = 0
    rows: Count = 0
    temperature: Annotated[float, Between(1e-6, 1e6)] = 1.0
    threshold: Share = 0.5
    accuracy: Maybe = None
    balanced_accuracy: Maybe = None
    f1: Maybe = None
    roc_auc: Maybe = None
    pr_auc: Maybe = None
    log_loss: Loss | None = None
    ece: Maybe = None
    labels: list[str] = field(default_factory=list)
    confusion: list[list[Count]] = field(default_factory=list)
    confusion_cells: list[list[Count]] = field(default_factory=list)
    intervals: dict[str, Interval | str | float] = field(default_factory=dict)
    per_class: list[Class] = field(default_factory=list)
    calibration: Calibrated | None = None
    slices: list[Slice] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    mistakes_method: str = ""


KNOWN = tuple(one.name for one in fields(Figures))
FILLED = ("labels", "confusion", "per_class", "calibration", "intervals")
METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc", "log_loss", "ece")
SHOWN = (*FILLED, "slices", "mistakes", "step", "rows", "temperature", "threshold", *METRICS)
"""What a page about a classifier needs; the first of them not empty."""
HOW_FOUND = having(level=Share, method=str)
"""What it says of intervals."""


def check_figures(content: dict[str, Any], where: str) -> None:
    """Raise ``DataError`` for figures that are none: of another type, out of range, or of other classes."""
    found = typed(Figures, {name: content[name] for name in KNOWN if name in content}, where, AGAIN)
    if found.confusion and {len(found.confusion), *map(len, found.confusion)} != {len(found.labels)}:
        raise DataError(f"{where}: confusion is not that of its {len(found.labels)} labels: damaged; {AGAIN}")
    for place, cell in enumerate(found.confusion_cells):
        if len(cell) != 3 or max(cell[:2]) >= len(found.labels):
            raise DataError(f"{where}: confusion_cells[{place}] is no pair of classes and its rows: damaged; {AGAIN}")
    if [one.label for one in found.per_class] not in ([], found.labels):
        raise DataError(f"{where}: per_class is not that of its {len(found.labels)} labels: damaged; {AGAIN}")
    intervals = {f"intervals.{name}": interval for name, interval in found.intervals.items()}
    intervals |= {f"slices[{at}].accuracy_interval": one["accuracy_interval"] for at, one in enumerate(found.slices)}
    for name, interval in intervals.items():
        if isinstance(interval, list) and len(interval) != 2:
            raise DataError(f"{where}: {name} has {len(interval)} ends, expected 2; {AGAIN}")
    for place, mistake in enumerate(found.mistakes):
        tokens, weights = mistake.get("tokens", []), mistake.get("weights", [])
        if not PIECES.holds({"tokens": tokens, "weights": weights}) or len(tokens) != len(weights):
            raise DataError(f"{where}: mistakes[{place}] has no weight for each token: damaged; {AGAIN}")


PIECES = having(tokens=list[str], weights=list[float])


def check_shown(content: dict[str, Any], where: str) -> None:
    """Raise ``DataError`` for figures of a classifier that lack what a page about it shows."""
    cells = "confusion_cells"
    for name in (cells if name == "confusion" and cells in content else name for name in SHOWN):
        if name not in content or (name in (*FILLED, cells) and not content[name]):
            raise DataError(f"{where}: has no {name}: another version of padless wrote it, or it is damaged; {AGAIN}")
        if name == "intervals" and not HOW_FOUND.holds(content[name]):
            raise DataError(f"{where}: {name} are not {HOW_FOUND}: another version wrote them; {AGAIN}")
