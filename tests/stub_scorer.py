# SPDX-License-Identifier: Apache-2.0
"""A scorer without weights, for tests of what predictions are read from and written to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from harness.inference import predict, scorer
from harness.scores.calibration import Decision
from preprocessing.job import engine
from preprocessing.text.vocabulary import UNK

LABELS = ["bad", 'good, or "fine"']
COLUMNS = ("predicted", "probability_bad", 'probability_good, or "fine"')
LOGIT = 1.0986122886681096
"""Of three to one, so that probabilities are 0.75 and 0.25 to the last bit."""
FACTS: dict[str, Any] = {"weights_sha256": "w", "text_hash": "t", "temperature": 1.0, "threshold": 0.5}


class Stub(scorer.Scorer):
    """A scorer and a predictor: a text is good if it has an even number of characters."""

    seen: ClassVar[list[str]] = []
    """Every text that was encoded since the latest command began."""
    labels, label_type = LABELS, "text"
    decision = Decision()

    def __init__(self, directory: Path, *settings: object, **how: object) -> None:
        """Nothing is opened."""

    @staticmethod
    def settle(info: object, device: str, precision: str) -> dict[str, str]:
        """As asked for, on a CPU."""
        Stub.seen = []
        return {"device": "cpu", "precision": precision}

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """An id for each character, and two more; words of nothing but x are unknown."""
        Stub.seen += texts
        return [np.full(len(text) + 2, UNK if set(text) == {"x"} else UNK + 1) for text in texts]

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Three to one, for or against."""
        return np.array([LOGIT if len(ids) % 2 == 0 else -LOGIT for ids in encoded])

    def open(self) -> None:
        """There are no weights."""


def put_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make it the scorer of every command; returns its bundle's metadata, which tests may change."""
    info = SimpleNamespace(labels=LABELS, label_type="text", dataset="d", task="classifier", **FACTS)
    monkeypatch.setitem(scorer.ENGINES, "torch", f"{__name__}:Stub")
    monkeypatch.setattr(engine, "KEPT", SimpleNamespace())
    monkeypatch.setattr(predict, "read_classifier", lambda directory: info)
    for module in (scorer, predict):
        monkeypatch.setattr(module, "engine_of", lambda directory, engine: "torch")
    return info
