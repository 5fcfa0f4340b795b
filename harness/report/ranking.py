# SPDX-License-Identifier: Apache-2.0
"""Several runs in order: by validation, since whoever chooses by the test split has no test left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config import flat
from harness.report.facts import RunFacts
from harness.scores.figures import CHOSEN_BY
from harness.settings.task import LANGUAGE_MODEL

LOWER_IS_BETTER = ("log_loss", "calibrated_log_loss", "ece")
UNSET = "unset"
"""Stands for a setting that a run does not have."""


def ranking_metric(runs: Sequence[RunFacts]) -> str:
    """The figure that runs are ranked by: that by which all of them chose their weights, else the accuracy."""
    chosen = {CHOSEN_BY.get(selected(run), "accuracy") for run in runs}
    return chosen.pop() if len(chosen) == 1 else "accuracy"


def selected(run: RunFacts) -> str:
    """What a run chose its weights by; a pretraining by its loss, whatever its configuration says."""
    return "loss" if run.config.get("task") == LANGUAGE_MODEL else str(run.config.get("select"))


def ranked(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Runs of one dataset together, in the order in which datasets are named; of those the best validation first.

    A run without a validation comes after those that have one. Equals stay in their order.
    """
    name, groups = ranking_metric(runs), dataset_groups(runs)

    def place(number: int) -> tuple[int, float]:
        line = runs[number].best_validation
        value = line.get(name) if line is not None else None
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return groups[number], math.inf
        return groups[number], value if name in LOWER_IS_BETTER else -value

    return [runs[number] for number in sorted(range(len(runs)), key=place)]


def ranks(runs: Sequence[RunFacts]) -> list[int | None]:
    """The rank of each run of ``ranked`` among those of its dataset, from 1; None without a validation."""
    groups = dataset_groups(runs)
    places = [groups[: number + 1].count(group) for number, group in enumerate(groups)]
    return [place if run.best_validation is not None else None for run, place in zip(runs, places, strict=True)]


def dataset_groups(runs: Sequence[RunFacts]) -> list[int]:
    """For each run the number of its dataset; a run whose dataset is not known is a group of its own."""
    known: dict[str, int] = {}
    keys = [run.fingerprint or f"unknown {place}" for place, run in enumerate(runs)]
    return [known.setdefault(key, len(known)) for key in keys]


def best_values(runs: Sequence[RunFacts], names: Sequence[str]) -> dict[str, float]:
    """The best value of each metric on validation, where at least two runs of one dataset have it."""
    lines = [line for run in runs if (line := run.best_validation) is not None]
    if len(lines) < 2 or len(set(dataset_groups(runs))) > 1:
        return {}
    values = {name: [line[name] for line in lines if line.get(name) is not None] for name in names}
    return {name: (min if name in LOWER_IS_BETTER else max)(some) for name, some in values.items() if len(some) > 1}


def differing(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, with the value of each run; the run's own place is left out."""
    every = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in every for key in config if key != "run")
    table = {key: [config.get(key, UNSET) for config in every] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def unique_names(runs: Sequence[RunFacts]) -> list[str]:
    """Directory names; where two runs have the same, as many of the folders above as tell them apart."""
    paths = [run.directory.resolve().parts for run in runs]

    def name(path: tuple[str, ...]) -> str:
        for length in range(1, len(path) + 1):
            if sum(other[-length:] == path[-length:] for other in paths) == 1:
                break
        return str(Path(*path[-length:]))

    return [name(path) for path in paths]
