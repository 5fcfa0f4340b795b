# SPDX-License-Identifier: Apache-2.0
"""The model of a run as an object that takes a few texts; files are the work of ``harness.predicting``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.rundir.bundle_files import bundle_directory
from harness.rundir.results import prediction_columns
from harness.scores.metrics import predicted_labels, probabilities


class Predictor:
    """A loaded bundle; ``__call__`` takes any number of texts."""

    def __init__(self, run: str | Path, batch_rows: int = 128) -> None:
        """Load and verify the bundle of ``run``, or the bundle directory ``run`` itself."""
        from harness.inference.bundle import read_bundle

        self.bundle = read_bundle(bundle_directory(run))
        self.encoder = self.bundle.encoder()
        self.batch_rows = batch_rows
        self.labels = self.bundle.info.labels
        self.decision = self.bundle.decision

    def logits(self, texts: list[str]) -> np.ndarray:
        """The model's own, before calibration: float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        from harness.inference.logits import logits_of

        encoded = self.encoder(texts)
        return logits_of(self.bundle.model, np.split(encoded.ids, encoded.offsets[1:-1]), self.batch_rows)

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """Columns ``predicted`` and ``probability_LABEL``, calibrated, with the bundle's temperature and threshold."""
        logits = self.decision.calibrated(self.logits(texts))
        return prediction_columns(predicted_labels(logits, self.decision.threshold), probabilities(logits), self.labels)
