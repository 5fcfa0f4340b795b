# SPDX-License-Identifier: Apache-2.0
"""What was measured of the best weights of a run, wherever in its directory the figures lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rundir.bundle_files import peek
from harness.rundir.layout import BUNDLE, EVALUATION
from harness.rundir.results import read_figures
from preprocessing.base.split_names import TEST, VALIDATION


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

    Raises ``DataError`` for figures of another version.
    """
    test = read_figures(directory, TEST)
    if test is not None:
        return Measured(TEST, test, directory)
    place = directory / EVALUATION
    figures = read_figures(place, VALIDATION)
    info = peek(directory / BUNDLE)
    known = figures is not None and {"dataset": figures.get("dataset"), "step": figures.get("step")}
    if figures is None or known != {"dataset": info.dataset, "step": info.step}:
        return None  # none, or of another dataset, or of weights that a longer training has replaced
    return Measured(VALIDATION, figures, place)
