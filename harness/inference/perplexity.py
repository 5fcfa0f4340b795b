# SPDX-License-Identifier: Apache-2.0
"""How well a language model predicts a split: exact on any number of processes, every token once (law 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.batch import Layout
from harness.inference.scoring import PAUSE_EVERY, loader_over
from harness.model.language import LanguageModel
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split

DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Perplexity:
    """What the tokens of a split cost, the same on every rank."""

    rows: int
    targets: int
    """Tokens that each direction predicts: all but one of each row."""
    log_losses: tuple[float, ...]
    """Nats for each predicted token, of each direction."""

    @property
    def log_loss(self) -> float:
        """Nats for each predicted token, over both directions."""
        return sum(self.log_losses) / len(self.log_losses)

    def figures(self) -> dict[str, Any]:
        """Plain values for a log line; perplexity is e to the log loss."""
        both = zip(DIRECTIONS, self.log_losses, strict=False)
        return {
            "rows": self.rows,
            "targets": self.targets,
            "log_loss": self.log_loss,
            "perplexity": perplexity_of(self.log_loss),
            **{f"perplexity_{name}": perplexity_of(loss) for name, loss in both if len(self.log_losses) > 1},
        }


def perplexity_of(log_loss: float) -> float:
    """e to a log loss; infinite where a float cannot hold it."""
    return math.exp(log_loss) if log_loss < 700 else math.inf


def measure(
    model: LanguageModel,
    split: Split,
    world: World,
    *,
    batch_rows: int,
    layout: Layout,
    device: torch.device,
    pause: Callable[[], None] | None = None,
    guard: Callable[[], None] | None = None,
) -> Perplexity:
    """Run ``model`` over a split in the arithmetic of its weights, each rank over its own rows.

    ``pause`` is called on all ranks every few batches and may raise to end the measurement there; ``guard`` is the
    ``Loader``'s. Sums of rows are added in the order of the source, so they do not depend on who computed them.
    """
    loader = loader_over(split, world, batch_rows, layout=layout, device=device, guard=guard)
    parts = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            for batch in step.micro_batches:
                facts = (batch.rows.view(np.float64), (batch.lengths.numpy() - 1).view(np.float64))
                parts.append(np.column_stack([*facts, model.row_log_losses(batch).cpu().numpy()]))
    model.train(was_training)
    table = np.concatenate(parts) if parts else np.empty((0, 2 + model.num_directions))
    table = world.gather_rows(table, f"the log losses of split {split.name}")
    numbers, targets = np.ascontiguousarray(table[:, :2].T).view(np.int64)
    tokens = sum(shard.info.tokens for shard in split.shards)
    assert len(numbers) == len(np.unique(numbers)) == len(split), "a row was measured twice, or not at all"
    assert targets.sum() == tokens - len(split), "a token was predicted twice, or not at all"
    sums = table[np.argsort(numbers), 2:].sum(0)
    total = int(targets.sum())
    return Perplexity(len(split), total, tuple(float(value) / max(1, total) for value in sums))
