# SPDX-License-Identifier: Apache-2.0
"""Logits of every row of a split, exact on any number of processes.

Every row is scored once, in the arithmetic of the weights. The last batch is not padded with duplicates, and the ranks
exchange nothing before the one gather at the end. The number of distinct rows is then asserted (law 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.batch import Batch, Layout
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.model.classifier import Classifier
from harness.model.recurrent import packed_rows
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split
from preprocessing.text.vocabulary import UNK

PAUSE_EVERY = 8
"""Batches of an evaluation between two looks at whether to stop; the ranks meet there."""
FACTS = 4
"""Integer columns of the table that ranks exchange: row, label, length, unknown tokens."""


@dataclass(frozen=True)
class Scores:
    """Logits and labels of every row of a split, in the order of the source; the same on every rank."""

    rows: np.ndarray
    """int64 ``[rows]``: row numbers in the source, ascending."""
    labels: np.ndarray
    """int64 ``[rows]``."""
    logits: np.ndarray
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; the model's own, before calibration."""
    lengths: np.ndarray
    """int64 ``[rows]``: tokens of each row."""
    unknown: np.ndarray
    """int64 ``[rows]``: how many of them are not in the vocabulary."""


def loader_over(split: Split, world: World, batch_rows: int, **options: Any) -> Loader:
    """This rank's share of a split that is measured: every row once, ``batch_rows`` at once, in no drawn order."""
    spec = OrderSpec(seed=0, global_batch=batch_rows * world.world_size, shuffle=False)
    return Loader(split, order_over(split, spec), rank=world.rank, world_size=world.world_size, **options)


def score(
    model: Classifier,
    split: Split,
    world: World,
    *,
    batch_rows: int,
    layout: Layout,
    device: torch.device,
    pause: Callable[[], None] | None = None,
    guard: Callable[[], None] | None = None,
    read: Callable[[Batch], torch.Tensor] | None = None,
) -> Scores:
    """Run ``model`` over a split, each rank over its own rows, and give every rank all scores.

    ``pause`` is called on all ranks every few batches and may raise to end the evaluation there. ``guard`` is the
    ``Loader``'s: it watches the split's files. ``read`` gives the logits of a batch where they are not to be those of
    the whole ``model``.
    """
    loader = loader_over(split, world, batch_rows, layout=layout, device=device, guard=guard)
    parts: list[tuple[np.ndarray, ...]] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            with world.waiting(f"the device to score split {split.name}, and with it what is due"):
                parts += [facts_of(batch, (read or model)(batch)) for batch in step.micro_batches]
    model.train(was_training)
    outputs = 1 if model.num_classes == 2 else model.num_classes
    table = np.empty((0, FACTS + outputs), np.float64)
    if parts:
        *facts, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
        table = np.column_stack([*(fact.view(np.float64) for fact in facts), logits.reshape(len(logits), outputs)])
    table = world.gather_rows(table, f"the scores of split {split.name}")
    numbers, labels, lengths, unknown = np.ascontiguousarray(table[:, :FACTS].T).view(np.int64)
    assert len(numbers) == len(np.unique(numbers)) == len(split), "a row was scored twice, or not at all"
    order_of_rows = np.argsort(numbers)
    scores = table[:, FACTS:] if model.num_classes > 2 else table[:, FACTS]
    return Scores(*(column[order_of_rows] for column in (numbers, labels, scores, lengths, unknown)))


def facts_of(batch: Batch, logits: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Row, label, length and unknown tokens (int64 ``[rows]`` each) and float64 logits of a batch that was scored."""
    unknown = batch.ids == UNK
    if batch.batch_sizes is None:
        counts = unknown.sum(1)
    else:
        rows = packed_rows(batch.batch_sizes, len(unknown), unknown.device)
        counts = unknown.new_zeros(batch.num_rows, dtype=torch.int64).index_add_(0, rows, unknown.long())
    tensors = [tensor.cpu().numpy() for tensor in (batch.labels, batch.lengths, counts, logits.double())]
    return tuple(np.array(column) for column in (batch.rows, *tensors))  # copies: the loader uses its buffers again
