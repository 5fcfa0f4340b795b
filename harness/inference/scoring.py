# SPDX-License-Identifier: Apache-2.0
"""All ranks score a split together: logits of a classifier, perplexity of a language model.

Every row is scored once. The last batch is not padded with duplicates. The ranks
communicate only in one gather at the end, after which the number of distinct rows is asserted (law 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.batch import Batch, Layout
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.distributed.world import World
from harness.metrics.figures import Scores
from harness.model.classifier import Classifier
from harness.model.language import WINDOW, LanguageModel
from padless.core.jobs import ROWS
from preprocessing.dataset.shards import Split

PAUSE_EVERY = 8
"""Batches between two checks for a stop request, at which the ranks synchronize."""
MEASURED_TOKENS = 1 << 17
"""Of a split with more tokens, a language model is measured on every second, third, … state, so that about so many are
left: the exact softmax of all takes longer than an epoch on a CPU, and these give the log loss to 0.01 nats."""


def score(
    model: Classifier,
    loader: Loader,
    world: World,
    pause: Callable[[], None] | None = None,
    read: Callable[[Batch], torch.Tensor] | None = None,
) -> Scores:
    """Score a split with ``model``, each rank its own rows (``loader_over``); rank 0 gets all scores, others none.

    ``pause`` is called on all ranks every few batches and may raise to end the evaluation. ``read`` computes the logits
    of a batch in place of ``model``.
    """

    def values_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.labels, (read or model)(batch).double()

    rows, labels, logits = gather_rows(model, loader, world, pause, values_of)
    members = loader.split.manifest.members
    return Scores(rows, labels if members is None else members[labels], logits)


def measure_language_model(
    model: LanguageModel,
    loader: Loader,
    world: World,
    pause: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Figures of a language model on a split: ``rows``, ``targets`` (predictions per direction), the mean ``log_loss``
    of a prediction in nats, over both directions, and ``perplexity``, its exp; none on other ranks than 0. A long split
    is sampled (``MEASURED_TOKENS``).

    ``loader`` and ``pause`` are as for ``score``. Sums of rows are added in the order of the source, so they do not
    depend on the number of ranks.
    """
    split = loader.split
    tokens = split.manifest.tokens(split.name)
    step = max(1, tokens // MEASURED_TOKENS)

    def values_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.lengths, torch.cat(model.row_log_losses(batch, step), 1).double()

    _, lengths, sums = gather_rows(model, loader, world, pause, values_of)
    if not world.is_main:
        return {}
    assert lengths.sum() == tokens, "a token was read twice, or not at all"
    predictions = sum(int(np.maximum(lengths - distance, 0).sum()) for distance in range(1, WINDOW + 1))
    losses, counts = np.split(sums.sum(0), 2)
    log_loss = float(np.divide(losses, counts, out=np.zeros(2), where=counts > 0).mean())
    perplexity = math.exp(log_loss) if log_loss < 700 else math.inf
    return {"rows": len(split), "targets": predictions // step, "log_loss": log_loss, "perplexity": perplexity}


def loader_over(split: Split, world: World, batch_rows: int, layout: Layout, device: torch.device) -> Loader:
    """This rank's share of a split for an evaluation: every row once, ``batch_rows`` per batch, without shuffling."""
    order = order_over(split, OrderSpec(seed=0, global_batch=batch_rows * world.world_size, shuffle=False))
    return Loader(split, order, layout=layout, device=device, rank=world.rank, world_size=world.world_size)


def gather_rows(
    model: Classifier | LanguageModel,
    loader: Loader,
    world: World,
    pause: Callable[[], None] | None,
    values_of: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows' numbers in the source and both columns of ``values_of``: on rank 0 of all rows, in the order of the
    source, on others of none. The model is in evaluation mode meanwhile. The host waits once, at the end.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    name, was_training = f"split {loader.split.name}", model.training
    action = f"the device to score {name}, and with it what is due"
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            with world.watch_wait(action):
                for batch in step.micro_batches:
                    parts.append((torch.from_numpy(batch.rows), *values_of(batch)))
                    ROWS.add(batch.num_rows)
        with world.watch_wait(action):
            columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    model.train(was_training)
    columns_by_rank = world.gather_on_main(columns, f"the scores of {name}")
    if not world.is_main:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    rows, first, second = map(np.concatenate, zip(*columns_by_rank, strict=True))
    order = np.argsort(rows)
    assert (np.diff(rows[order]) > 0).all(), "a row was scored twice"
    assert len(rows) == len(loader.split), "a row was not scored"
    return rows[order], first[order], second[order]
