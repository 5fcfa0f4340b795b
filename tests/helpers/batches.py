# SPDX-License-Identifier: Apache-2.0
"""Small batches for the network: random rows, padded and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Batch
from harness.data.loader import Loader
from harness.data.order import Order
from preprocessing.dataset.shards import Split

CPU = torch.device("cpu")


def padded_batch(lengths: Sequence[int], vocabulary_size: int, seed: int = 0) -> Batch:
    """Random ids of rows, longest first; every second row is of class 1."""
    random = np.random.default_rng(seed)
    ids = random.integers(2, vocabulary_size, (len(lengths), lengths[0])).astype(np.int32)
    ids[np.arange(lengths[0]) >= np.array(lengths)[:, None]] = 0
    rows = np.arange(len(lengths))
    return Batch(torch.from_numpy(ids), torch.tensor(lengths), torch.from_numpy(rows % 2), rows)


def packed_batch(batch: Batch) -> Batch:
    """The same rows without padding."""
    packed = pack_padded_sequence(batch.ids.t(), batch.lengths)
    return replace(batch, ids=packed.data, batch_sizes=packed.batch_sizes)


def single_row(batch: Batch, row: int) -> Batch:
    """One row of a padded batch, without padding."""
    position = slice(row, row + 1)
    ids = batch.ids[position, : batch.lengths[row]]
    return Batch(ids, batch.lengths[position], batch.labels[position], batch.rows[position])


def rows_of_step(order: Order, epoch: int, step: int) -> np.ndarray:
    """The rows of a global batch by their place in the split, longest first; ``step`` counts within the epoch."""
    window, starts = order.window(epoch, step), order.block_starts
    rows = np.concatenate([np.arange(starts[block], starts[block + 1]) for block in window.blocks])
    return rows[window.places[window.batch(step)]]


def loader_of(split: Split, order: Order, **options: Any) -> Loader:
    """A loader of padded batches for one rank on the CPU, unless ``options`` say otherwise."""
    return Loader(split, order, **{"rank": 0, "world_size": 1, "layout": "padded", "device": CPU, **options})
