# SPDX-License-Identifier: Apache-2.0
"""The keys of ``python -m harness launch``: those of a training, and which trainings one command is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import takewhile

from harness.config import RunConfig
from preprocessing.base.errors import ConfigError, require

ALL = "all"
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class LaunchRecipe(RunConfig):
    """A training as it is asked for, or many that differ in their seed or in the fold that they hold out."""

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
