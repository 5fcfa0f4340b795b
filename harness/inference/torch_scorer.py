# SPDX-License-Identifier: Apache-2.0
"""A bundle's network in torch: texts in, logits out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harness.inference.bundle import read_bundle
from harness.inference.logits import logits_of


class TorchScorer:
    """A loaded bundle with its text→ids code."""

    dtype: torch.dtype | None = None
    """What the recurrent layers compute in; None: that of the weights."""

    def __init__(self, directory: Path, batch_rows: int = 128) -> None:
        """Load and verify a bundle directory, which an export is too. Raises ``UserError``."""
        self.bundle = read_bundle(directory)
        self.encoder = self.bundle.encoder()
        self.batch_rows = batch_rows
        self.labels, self.label_type = self.bundle.info.labels, self.bundle.info.label_type
        self.decision = self.bundle.decision

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text."""
        return self.encoder.each(texts)

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Logits of what ``encode`` gave, before calibration: float64 ``[texts]`` for two classes, else ``[texts,
        classes]``.
        """
        return logits_of(self.bundle.model, encoded, self.batch_rows, self.dtype)

    def exact(self, encoded: list[np.ndarray]) -> np.ndarray:
        """The same in the arithmetic of the weights."""
        return logits_of(self.bundle.model, encoded, self.batch_rows)
