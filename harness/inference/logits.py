# SPDX-License-Identifier: Apache-2.0
"""Logits of texts that are ids already: no files, no ranks, no order but the one given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.batch import Batch, send
from harness.model.classifier import Classifier


def logits_of(model: Classifier, texts: Sequence[np.ndarray], batch_rows: int) -> np.ndarray:
    """float64 ``[texts]`` for two classes, ``[texts, classes]`` for more; ``texts`` are ids, one array for each text.

    Texts of similar length are computed together, on the device where ``model`` is; it must be in evaluation mode.
    """
    device = model.head.weight.device
    lengths = np.array([len(ids) for ids in texts], np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_rows):
            places = by_length[start : start + batch_rows]
            padded = np.zeros((len(places), int(lengths[places].max())), np.int32)
            for row, place in enumerate(places):
                padded[row, : lengths[place]] = texts[place]
            labels = torch.zeros(len(places), dtype=torch.int64)
            own = torch.from_numpy(lengths[places])
            batch = Batch(send(torch.from_numpy(padded), device), own, labels, places, sent_lengths=send(own, device))
            parts.append(model(batch).double().cpu().numpy())
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[by_length] = logits
    return result
