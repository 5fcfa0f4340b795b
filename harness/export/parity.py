# SPDX-License-Identifier: Apache-2.0
"""Whether the ONNX form of a network is the network: probabilities beside torch's, over texts of every length."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.inference.by_length import in_batches
from harness.inference.logits import logits_of
from harness.model.classifier import Classifier
from harness.rundir.bundle_files import IDS, LENGTHS, LOGITS, PROBABILITIES
from harness.scores.calibration import Decision
from harness.scores.metrics import probabilities
from preprocessing.base.errors import DataError
from preprocessing.text.vocabulary import UNK

MOST = 1e-4
"""The greatest difference of a probability with which an export is whole."""
RANDOM_BATCHES, MOST_ROWS = 8, 48
FEW = 40
"""Half of the texts are made of so many ids, so that words and pairs come again within a text."""


@dataclass(frozen=True)
class Parity:
    """What was compared."""

    difference: float
    """The greatest difference of a probability."""
    texts: int
    longest: int
    """Every length up to this one was compared."""

    def to_json(self) -> dict[str, Any]:
        """For the index."""
        return asdict(self)


def compare(
    model: Classifier, session: Any, decision: Decision, vocabulary_size: int, longest: int, batch_rows: int
) -> Parity:
    """Hold an ONNX Runtime session against torch on random ids: every length up to ``longest``, then mixed batches.

    Probabilities are compared as the graph gives them and as they follow from its logits. Raises ``DataError`` where
    one differs by more than ``MOST``, or is no number.
    """
    random = np.random.default_rng(0)

    def drawn(lengths: np.ndarray) -> list[np.ndarray]:
        tops = np.where(np.arange(len(lengths)) % 2, vocabulary_size, min(vocabulary_size, UNK + FEW))
        return [random.integers(UNK, top, length).astype(np.int32) for top, length in zip(tops, lengths, strict=True)]

    batches = [drawn(np.arange(1, longest + 1))]
    batches += [
        drawn(random.integers(1, longest + 1, random.integers(1, MOST_ROWS + 1))) for _ in range(RANDOM_BATCHES)
    ]
    worst = 0.0
    for number, texts in enumerate(batches):
        rows = batch_rows if number == 0 else len(texts)
        wanted = probabilities(decision.calibrated(logits_of(model, texts, rows)))
        for found in chances_of(session, texts, rows, decision):
            difference = float(np.abs(found - wanted).max())
            worst = max(worst, difference if np.isfinite(difference) else np.inf)
    if worst > MOST:
        raise DataError(
            f"--onnx: a probability of the ONNX network differs from torch's by {worst:.2g}, more than {MOST:g}; "
            "nothing was exported: try another version of onnxruntime, or export without --onnx"
        )
    return Parity(worst, sum(map(len, batches)), longest)


def chances_of(session: Any, texts: list[np.ndarray], rows: int, decision: Decision) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities ``[texts, classes]`` as the graph gives them, and as they follow from its logits."""

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        given = {IDS: padded, LENGTHS: lengths.astype(np.int32)}
        logits, chances = session.run([LOGITS, PROBABILITIES], given)
        return np.column_stack([chances, logits])

    both = in_batches(texts, rows, read)
    classes = session.get_outputs()[1].shape[1]
    logits = both[:, classes] if classes == 2 else both[:, classes:]
    return both[:, :classes], probabilities(decision.calibrated(logits))
