# SPDX-License-Identifier: Apache-2.0
"""What was measured of the best weights of a run, wherever in its directory the figures lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rundir.bundle_files import peek
from harness.rundir.figures_schema import AGAIN
from harness.rundir.layout import BUNDLE, EVALUATION
from harness.rundir.results import figures_name, read_figures
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.untrusted import shown


@dataclass(frozen=True)
class Measured:
    """The best weights of a run, measured on every row of one split."""

    split: str
    figures: dict[str, Any]
    """Those of ``SPLIT.json``."""
    directory: Path
    """Where that file and the predictions lie."""


def read_measured(directory: Path) -> Measured | None:
    """The figures of the test split, or those that an evaluation of the same weights left of validation.

    Raises ``DataError`` for figures of another version, and for a test of another run's dataset.
    """
    test, info = read_figures(directory, TEST), peek(directory / BUNDLE)
    if test is not None:
        if None not in (info.dataset, test.get("dataset")) and test["dataset"] != info.dataset:
            what = f"holds figures of another dataset ({shown(test['dataset'][:12])}) than the run's own"
            raise DataError(f"{directory / figures_name(TEST)}: {what}: it is another run's; {AGAIN}")
        return Measured(TEST, test, directory)
    place = directory / EVALUATION
    figures = read_figures(place, VALIDATION)
    known = figures is not None and {"dataset": figures.get("dataset"), "step": figures.get("step")}
    if figures is None or known != {"dataset": info.dataset, "step": info.step}:
        return None  # none, or of another dataset, or of weights that a longer training has replaced
    return Measured(VALIDATION, figures, place)
