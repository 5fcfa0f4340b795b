# SPDX-License-Identifier: Apache-2.0
"""How well a language model predicts a split: exact on any number of processes, every prediction once (law 5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.batch import Layout
from harness.inference.scoring import PAUSE_EVERY, loader_over
from harness.model.language import NEXT_TOKEN, LanguageModel, Targets
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split

DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Perplexity:
    """What the tokens of a split cost, the same on every rank."""

    rows: int
    targets: int
    """Predictions of each direction; of next tokens, all tokens but one of each row."""
    log_losses: tuple[float, ...]
    """Nats for each prediction, of each direction; a mean with the weights that predictions have."""

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
    targets: Targets = NEXT_TOKEN,
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
                facts = (batch.rows.view(np.float64), batch.lengths.numpy().view(np.float64))
                with world.waiting(f"the device to measure split {split.name}, and with it what is due"):
                    sums = torch.cat(model.row_log_losses(batch, targets), 1).cpu().numpy()
                parts.append(np.column_stack([*facts, sums]))
    model.train(was_training)
    table = np.concatenate(parts) if parts else np.empty((0, 2 + 2 * model.num_directions))
    table = world.gather_rows(table, f"the log losses of split {split.name}")
    numbers, lengths = np.ascontiguousarray(table[:, :2].T).view(np.int64)
    assert len(numbers) == len(np.unique(numbers)) == len(split), "a row was measured twice, or not at all"
    tokens = sum(shard.info.tokens for shard in split.shards)
    assert lengths.sum() == tokens, "a token was read twice, or not at all"
    predictions = sum(int(np.maximum(lengths - distance, 0).sum()) for distance in targets.all)
    losses, counts = np.split(table[np.argsort(numbers), 2:].sum(0), 2)
    assert targets.weights is not None or (counts == predictions).all(), "a token was predicted twice, or not at all"
    both = zip(losses, counts, strict=True)
    return Perplexity(len(split), predictions, tuple(float(loss / count) if count else 0.0 for loss, count in both))
