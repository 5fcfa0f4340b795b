# SPDX-License-Identifier: Apache-2.0
"""Logits of texts from a bundle's weights, by torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.batch import Batch, send
from harness.inference.bundle import with_weights
from harness.inference.scorer import PADDED_TOKENS, Scorer, in_batches
from harness.model.classifier import Classifier
from harness.model.registry import CELLS
from harness.ranks.precision import (
    DTYPES,
    as_arithmetic,
    choose_device,
    choose_precision,
    full_fp32,
    keep_memory,
    recurrent_dtype,
)

PADDED_TOKENS_CUDA = 1 << 19
"""Tokens of a batch on a GPU, padding included."""


def logits_of(
    model: Classifier, texts: Sequence[np.ndarray], batch_rows: int, dtype: torch.dtype | None = None
) -> np.ndarray:
    """float64 ``[texts]`` for two classes, ``[texts, classes]`` for more; ``texts`` are ids, one array for each text.

    Texts of similar length are computed together, at most ``batch_rows`` of them, on the device where ``model`` is; it
    must be in evaluation mode. ``dtype`` is what the recurrent layers compute in, that of the weights unless given.
    """
    device = model.head.weight.device

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        labels, own = torch.zeros(len(places), dtype=torch.int64), torch.from_numpy(lengths)
        batch = Batch(send(torch.from_numpy(padded), device), own, labels, places, sent_lengths=send(own, device))
        found: np.ndarray = model(batch, None, dtype).double().cpu().numpy()
        return found

    with torch.inference_mode():
        return in_batches(texts, batch_rows, read, PADDED_TOKENS_CUDA if device.type == "cuda" else PADDED_TOKENS)


class TorchScorer(Scorer):
    """A bundle. One of many processes computes with one thread on a CPU: no figure depends on how many there are."""

    dtype: torch.dtype | None = None
    """What the recurrent layers compute in; None: that of the weights."""

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """See ``Scorer.settle``."""
        place = choose_device(device).value
        return {"device": place, "precision": choose_precision(precision, place).value}  # type: ignore[arg-type]

    def open(self) -> None:
        """See ``Scorer.open``."""
        self.bundle = with_weights(self.directory, self.info, self.vocabulary)
        if self.settled is None:
            return
        device = torch.device(self.settled["device"])
        if device.type == "cpu":
            torch.set_num_threads(1)
            keep_memory()
        full_fp32()
        self.bundle.model.to(device)
        arithmetic = as_arithmetic(choose_precision(self.settled["precision"], device.type))  # type: ignore[arg-type]
        able = CELLS[self.bundle.model.config.cell].bf16_on_cpu
        chosen = recurrent_dtype(arithmetic, device.type, "padded", bf16_on_cpu=able)
        self.dtype = None if chosen.value == "fp32" else DTYPES[chosen.value]

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """See ``Scorer.score``."""
        if self.settled is not None and self.settled["device"] == "cpu":
            torch.set_num_threads(1)  # a thread's own: Dask's are not the one that opened the bundle
        return logits_of(self.bundle.model, encoded, self.batch_rows, self.dtype)

    def exact(self, encoded: list[np.ndarray]) -> np.ndarray:
        """See ``Scorer.exact``."""
        return logits_of(self.bundle.model, encoded, self.batch_rows)
