# SPDX-License-Identifier: Apache-2.0
"""A bundle's network in torch: texts in, logits out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.inference.bundle import read_bundle
from harness.inference.logits import logits_of


class TorchScorer:
    """A loaded bundle with its text→ids code."""

    def __init__(self, directory: Path, batch_rows: int = 128) -> None:
        """Load and verify a bundle directory, which an export is too. Raises ``UserError``."""
        self.bundle = read_bundle(directory)
        self.encoder = self.bundle.encoder()
        self.batch_rows = batch_rows
        self.labels = self.bundle.info.labels
        self.decision = self.bundle.decision

    def logits(self, texts: list[str]) -> np.ndarray:
        """The model's own, before calibration: float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        encoded = self.encoder(texts)
        return logits_of(self.bundle.model, np.split(encoded.ids, encoded.offsets[1:-1]), self.batch_rows)
