# SPDX-License-Identifier: Apache-2.0
"""Scores of a split by the ranks together: logits of a classifier, perplexity of a language model.

Every row is scored once, in the arithmetic of the weights. The last batch is not padded with duplicates, and the ranks
exchange nothing before the one gather at the end. The number of distinct rows is then asserted (law 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.batch import Batch, Layout
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.data.placement import open_data
from harness.data.views import as_trained
from harness.inference.bundle import Bundle, read_bundle, same_text
from harness.inference.config import ScoringConfig
from harness.model.classifier import Classifier
from harness.model.language import NEXT_TOKEN, LanguageModel, Targets
from harness.model.recurrent import PackedIndex
from harness.ranks.distributed import World
from harness.ranks.precision import layout_on
from harness.ranks.session import Session
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.text.vocabulary import UNK

PAUSE_EVERY = 8
"""Batches of an evaluation between two looks at whether to stop; the ranks meet there."""
DIRECTIONS = ("forward", "backward")


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


def weights_and_dataset(
    directory: Path, data: str, session: Session, check: Callable[[Manifest], None]
) -> tuple[Bundle, Manifest]:
    """A bundle on this rank's device, and the dataset as its training saw it; ``check`` may refuse the dataset.

    Every rank calls this. Raises the same ``UserError`` on all of them, also where texts became ids in another way.
    """
    world = session.world
    with world.together("loading weights and dataset"):
        bundle = read_bundle(directory)
        manifest = as_trained(read_manifest(data), bundle.info.fold, bundle.info.dataset, data)
        check(manifest)
        same_text(bundle.info, manifest, data)
    world.handshake({"weights": bundle.info.weights_sha256, "dataset": manifest.fingerprint})
    bundle.model.to(session.device).recurrent.flatten_parameters()
    return bundle, manifest


def score_split(
    bundle: Bundle, manifest: Manifest, name: str, data: str, config: ScoringConfig, session: Session
) -> tuple[Scores, Split]:
    """The scores of the split ``name`` of the dataset ``data``, which is staged and opened for it, and the split."""
    wanted = (data, manifest, name, session.world)
    opened = open_data(*wanted, timeout_s=config.timeout_s, stage_dir=config.stage_dir, only=True)
    split = opened.splits[name]
    scores = score(
        bundle.model,
        split,
        session.world,
        batch_rows=config.batch,
        layout=layout_on(session.device, bundle.model.config.hidden_size)[0],
        device=session.device,
        guard=opened.guard.check_sizes,
    )
    opened.guard.close()
    return scores, split


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

    def values_of(batch: Batch) -> np.ndarray:
        facts = (batch.labels, batch.lengths, unknown_tokens(batch))
        logits = (read or model)(batch).double().cpu().numpy().reshape(batch.num_rows, -1)
        return in_columns(batch.rows, *(fact.cpu().numpy() for fact in facts), values=logits)

    parts = run_over(model, loader, world, split, pause, values_of)
    outputs = 1 if model.num_classes == 2 else model.num_classes
    (numbers, labels, lengths, unknown), logits = gathered(parts, 4, outputs, world, split)
    return Scores(numbers, labels, logits if model.num_classes > 2 else logits[:, 0], lengths, unknown)


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
    """Run a language model over a split in the arithmetic of its weights, each rank over its own rows.

    ``pause`` and ``guard`` are as for ``score``. Sums of rows are added in the order of the source, so they do not
    depend on who computed them.
    """
    loader = loader_over(split, world, batch_rows, layout=layout, device=device, guard=guard)

    def values_of(batch: Batch) -> np.ndarray:
        sums = torch.cat(model.row_log_losses(batch, targets), 1).cpu().numpy()
        return in_columns(batch.rows, batch.lengths.numpy(), values=sums)

    parts = run_over(model, loader, world, split, pause, values_of)
    (_, lengths), sums = gathered(parts, 2, 2 * model.num_directions, world, split)
    tokens = sum(shard.info.tokens for shard in split.shards)
    assert lengths.sum() == tokens, "a token was read twice, or not at all"
    predictions = sum(int(np.maximum(lengths - distance, 0).sum()) for distance in targets.all)
    losses, counts = np.split(sums.sum(0), 2)
    assert targets.weights is not None or (counts == predictions).all(), "a token was predicted twice, or not at all"
    both = zip(losses, counts, strict=True)
    return Perplexity(len(split), predictions, tuple(float(loss / count) if count else 0.0 for loss, count in both))


def loader_over(split: Split, world: World, batch_rows: int, **options: Any) -> Loader:
    """This rank's share of a split that is measured: every row once, ``batch_rows`` at once, in no drawn order."""
    spec = OrderSpec(seed=0, global_batch=batch_rows * world.world_size, shuffle=False)
    return Loader(split, order_over(split, spec), rank=world.rank, world_size=world.world_size, **options)


def run_over(
    model: Classifier | LanguageModel,
    loader: Loader,
    world: World,
    split: Split,
    pause: Callable[[], None] | None,
    values_of: Callable[[Batch], np.ndarray],
) -> list[np.ndarray]:
    """``values_of`` each batch of this rank, the model in evaluation mode."""
    parts: list[np.ndarray] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            with world.waiting(f"the device to score split {split.name}, and with it what is due"):
                parts += [values_of(batch) for batch in step.micro_batches]
    model.train(was_training)
    return parts


def in_columns(*facts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A float64 table of int64 columns, bit by bit, and of ``values`` ``[rows, columns]``: one array to be gathered.

    Nothing in it is a view: the loader uses its buffers again.
    """
    return np.column_stack([*(fact.astype(np.int64, copy=False).view(np.float64) for fact in facts), values])


def gathered(
    parts: Sequence[np.ndarray], num_facts: int, width: int, world: World, split: Split
) -> tuple[np.ndarray, np.ndarray]:
    """What ``in_columns`` made of all rows, on all ranks: int64 ``[facts, rows]``, of which the first is the row's
    number in the source, and float64 ``[rows, width]``, in the order of the source.
    """
    table = np.concatenate(parts) if parts else np.empty((0, num_facts + width))
    table = np.concatenate(world.gather_objects(table, f"the scores of split {split.name}"))
    facts = np.ascontiguousarray(table[:, :num_facts].T).view(np.int64)
    assert len(facts[0]) == len(np.unique(facts[0])) == len(split), "a row was scored twice, or not at all"
    order_of_rows = np.argsort(facts[0])
    return facts[:, order_of_rows], table[order_of_rows, num_facts:]


def unknown_tokens(batch: Batch) -> torch.Tensor:
    """int64 ``[rows]``: how many tokens of each row are not in the vocabulary."""
    unknown = batch.ids == UNK
    if batch.batch_sizes is None:
        return unknown.sum(1)
    rows = PackedIndex.of(batch.lengths, batch.device_lengths).row
    return unknown.new_zeros(batch.num_rows, dtype=torch.int64).index_add_(0, rows, unknown.long())
