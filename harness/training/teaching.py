# SPDX-License-Identifier: Apache-2.0
"""What a run learns from beside its labels: the soft labels of a teacher, and the rows that they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.config import RunConfig
from harness.data.checks import open_soft_labels
from harness.data.soft_labels import targets_of
from harness.ranks.precision import Choice
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Manifest, Split

SOFT_LABELS = "soft_labels"


@dataclass(frozen=True)
class Teaching:
    """Soft labels by split, as a ``Loader`` takes them; everything is None or empty where there are none."""

    targets: Mapping[str, np.ndarray]
    facts: dict[str, Any] | None = None
    """What is remembered of them in checkpoints and in the bundle."""
    choice: Choice | None = None
    """For the first lines of the run."""

    @property
    def remembered(self) -> dict[str, dict[str, Any] | None]:
        """What checkpoints and the bundle hold of it."""
        return {} if self.facts is None else {SOFT_LABELS: self.facts}

    def choices(self) -> Iterator[tuple[str, Choice]]:
        """For the first lines of the run."""
        if self.choice is not None:
            yield "soft labels", self.choice

    def counted_beside(self, splits: Mapping[str, Split]) -> Split | None:
        """The unlabelled rows that the wide part counts its features on too: where it learns from them."""
        return splits[UNLABELLED] if UNLABELLED in self.targets else None


def read_teaching(config: RunConfig, manifest: Manifest, splits: Mapping[str, Split]) -> Teaching:
    """Read the soft labels that ``config`` asks for; every rank does. Raises ``ConfigError`` or ``DataError``."""
    found = open_soft_labels(config, manifest)
    if found is None:
        return Teaching({})
    targets = targets_of(found, splits[UNLABELLED])
    return Teaching({UNLABELLED: targets}, found.facts, Choice(str(found.path), found.in_words))
