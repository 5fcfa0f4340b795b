# SPDX-License-Identifier: Apache-2.0
"""The keys of ``python -m harness launch``: those of a training, which trainings one command is to do, and the command
lines of each of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, takewhile
from typing import Any

from harness.config import RunConfig, seconds
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, require

ALL = "all"
NOTHING = "none"
"""In place of a dataset, or of a run directory: there is none."""
MOST_SEEDS = 1000
SHORTEST_S = 1.0
"""No training begins with less time than this."""


@dataclass(frozen=True, kw_only=True)
class LaunchRecipe(RunConfig):
    """The keys of one training, or of many that differ in their seed or in the fold that they hold out."""

    seeds: str | None = None
    """Train once with each of these seeds, as in 0,1,2: one after the other in RUN/seed-0, RUN/seed-1, …, with mean and
    spread of their figures in the end; see docs/many-runs.md. python -m harness launch alone takes it."""
    folds: str | None = None
    """Train once for each fold of the dataset (splits.folds), holding it out: all, or their number; in RUN/fold-0,
    RUN/fold-1, …, with a prediction for every row by the run that did not learn from it. python -m harness launch alone
    takes it."""

    def __post_init__(self) -> None:
        """Check ranges, and that one thing alone is varied."""
        super().__post_init__()
        if self.seeds is not None and self.folds is not None:
            raise ConfigError("seeds, folds: one command varies one of the two; give --seeds or --folds, not both")
        if self.folds is not None:
            number = self.folds.strip()
            fits = number == ALL or (number.isdecimal() and int(number) >= 2)
            require(fits, "folds", self.folds, "all, or the number of folds that the dataset has, at least 2")
        if self.seeds is not None:
            seeds_of(self.seeds)

    @property
    def recipe(self) -> RunConfig:
        """The training alone."""
        return RunConfig(**{one.name: getattr(self, one.name) for one in fields(RunConfig)})


def check_blanks(words: Sequence[str]) -> None:
    """Raise ``ConfigError`` for ``--seeds 0 1 2``, which a command line cuts at its blanks."""
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        following = takewhile(lambda one: not one.startswith("--"), words[place + 1 :])
        given = [*([value] if equals else []), *following]
        if name == "--seeds" and len(given) > 1:
            joined = ",".join(part for one in given for part in one.split(",") if part)
            raise ConfigError(f"seeds: {' '.join(given)}: commas stand between them and no blanks: --seeds {joined}")


def seeds_of(text: str) -> list[int]:
    """The seeds that ``0,1,2`` names, in this order. Raises ``ConfigError``."""
    words = [word.strip() for word in text.strip().removeprefix("[").removesuffix("]").split(",")]
    expected = "whole numbers from 0 with commas between, as in 0,1,2"
    require(all(word.isdecimal() and word.isascii() for word in words), "seeds", text, expected)
    found = [int(word) for word in words]
    require(max(found) < 2**63, "seeds", text, "below 2**63")
    for place, seed in enumerate(found):
        if seed in found[:place]:
            raise ConfigError(f"seeds: {seed} stands there twice, and the same seed gives the same run; name another")
    if len(found) == 1:
        raise ConfigError(
            f"seeds: {text} is one seed, which has no spread; name two or more, as in 0,1,2, or give --seed {found[0]}"
        )
    require(len(found) <= MOST_SEEDS, "seeds", f"{len(found)} of them", f"at most {MOST_SEEDS}")
    return found


class TimeLeft:
    """``max_time`` of a command is that of all its trainings together."""

    def __init__(self, max_time: str | None) -> None:
        """The time runs from now."""
        self.began, self.limit = time.monotonic(), seconds(max_time)

    def words(self) -> dict[str, str] | None:
        """The key of the next training that says how long it may take, if there is a limit; None if time is over."""
        if not self.limit:
            return {}
        left = self.limit - (time.monotonic() - self.began)
        return None if left < SHORTEST_S else {"max_time": f"{left:.0f}"}


def as_words(values: dict[str, Any]) -> list[str]:
    """Keys and values as a command line has them."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def typed(words: list[str], config_class: type) -> list[tuple[str, list[str]]]:
    """Each key of a command line for ``config_class`` and the words that give it, in their order."""
    return cli.apart(words, config_class)[1]


def without(words: list[str], config_class: type, keys: set[str]) -> list[str]:
    """A command line without some of its keys."""
    return list(chain(*(option for key, option in typed(words, config_class) if key not in keys)))
