# SPDX-License-Identifier: Apache-2.0
"""What a run learns from beside its labels: the soft labels of a teacher, and the rows that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.config import RunConfig
from harness.data.checks import open_soft_labels, taught_splits
from harness.data.soft_labels import targets_of
from harness.ranks.precision import Choice
from harness.training.wide import Beside
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Manifest, Split


@dataclass(frozen=True)
class Teaching:
    """Soft labels by split, as a ``Loader`` takes them; everything is None or empty where there are none."""

    targets: Mapping[str, np.ndarray]
    facts: dict[str, Any] | None = None
    """What is remembered of them in checkpoints and in the bundle."""
    choice: Choice | None = None
    """For the first lines of the run."""

    def counted_beside(self, config: RunConfig, splits: Mapping[str, Split]) -> Beside | None:
        """The unlabelled rows that the wide part counts its features on too: where it learns from them."""
        if UNLABELLED not in self.targets:
            return None
        every = config.self_training.ratios == "all"
        return Beside(splits[UNLABELLED], self.targets[UNLABELLED] if every else None)


def read_teaching(config: RunConfig, manifest: Manifest, splits: Mapping[str, Split]) -> Teaching:
    """Read the soft labels that ``config`` asks for; every rank does. Raises ``ConfigError`` or ``DataError``."""
    found = open_soft_labels(config, manifest)
    if found is None:
        return Teaching({})
    targets = {name: targets_of(found, splits[name]) for name in taught_splits(config)}
    return Teaching(targets, found.facts, Choice(str(found.path), found.in_words))
