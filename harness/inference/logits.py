# SPDX-License-Identifier: Apache-2.0
"""Logits of texts that are ids already: no files, no ranks, no order but the one given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.batch import Batch, send
from harness.model.classifier import Classifier

PADDED_TOKENS = {"cpu": 8192, "cuda": 1 << 19}
"""Tokens of a batch, padding included: on a CPU so many that the gates of a layer stay in the cache."""


def logits_of(
    model: Classifier, texts: Sequence[np.ndarray], batch_rows: int, dtype: torch.dtype | None = None
) -> np.ndarray:
    """float64 ``[texts]`` for two classes, ``[texts, classes]`` for more; ``texts`` are ids, one array for each text.

    Texts of similar length are computed together, at most ``batch_rows`` of them, on the device where ``model`` is; it
    must be in evaluation mode. ``dtype`` is what the recurrent layers compute in, that of the weights unless given.
    """
    device = model.head.weight.device
    most = PADDED_TOKENS.get(device.type, PADDED_TOKENS["cpu"])
    lengths = np.array([len(ids) for ids in texts], np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    parts = []
    start = 0
    with torch.inference_mode():
        while start < len(texts):
            rows = max(1, min(batch_rows, most // int(lengths[by_length[start]])))
            places = by_length[start : start + rows]
            start += rows
            padded = np.zeros((len(places), int(lengths[places].max())), np.int32)
            for row, place in enumerate(places):
                padded[row, : lengths[place]] = texts[place]
            labels = torch.zeros(len(places), dtype=torch.int64)
            own = torch.from_numpy(lengths[places])
            batch = Batch(send(torch.from_numpy(padded), device), own, labels, places, sent_lengths=send(own, device))
            parts.append(model(batch, None, dtype).double().cpu().numpy())
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[by_length] = logits
    return result
