# SPDX-License-Identifier: Apache-2.0
"""Logits of texts that are ids already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.batch import Batch, send
from harness.inference.by_length import PADDED_TOKENS, in_batches
from harness.model.classifier import Classifier

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
