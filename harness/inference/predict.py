# SPDX-License-Identifier: Apache-2.0
"""The model of a run as an object that takes a few texts; files are the work of ``harness.predicting``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.scorers import Engine, Scorer, open_scorer
from harness.rundir.results import prediction_columns
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.text.vocabulary import UNK


def predictions(scorer: Scorer, encoded: list[np.ndarray]) -> dict[str, Any]:
    """Columns ``predicted`` and ``probability_LABEL`` of texts that are encoded, calibrated, with the temperature and
    threshold of the weights.
    """
    logits = scorer.decision.calibrated(scorer.score(encoded))
    found = predicted_labels(logits, scorer.decision.threshold), probabilities(logits)
    return prediction_columns(*found, scorer.labels, scorer.label_type)


def unknown_shares(encoded: list[np.ndarray]) -> np.ndarray:
    """float64 ``[texts]``: the share of each text's tokens that are not in the vocabulary; of 1 nothing can be read."""
    return np.array([float((ids == UNK).mean()) for ids in encoded])


class Predictor:
    """A loaded model; ``__call__`` takes any number of texts."""

    def __init__(self, run: str | Path, batch_rows: int = 128, engine: Engine = "auto") -> None:
        """Load and verify the model of ``run``; see ``open_scorer``."""
        self.scorer = open_scorer(run, engine, batch_rows)
        self.labels, self.decision = self.scorer.labels, self.scorer.decision

    def logits(self, texts: list[str]) -> np.ndarray:
        """The model's own, before calibration: float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        return self.scorer.score(self.scorer.encode(texts))

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """The columns of ``predictions``."""
        return predictions(self.scorer, self.scorer.encode(texts))
