# SPDX-License-Identifier: Apache-2.0
"""``plan --verify``: the real order over the real shards, run for several world sizes, epochs and cut points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.checks import TRAIN, order_spec
from harness.data.order import Order, order_over, row_hash
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Manifest, Split

if TYPE_CHECKING:
    from harness.launch.plan import PlanConfig

CUTS = 16


def verify(config: PlanConfig, manifest: Manifest) -> list[dict[str, Any]]:
    """One entry per thing that was tried, each with ``holds`` and a sentence.

    Raises ``ConfigError`` for a world size or a cut that the order has no rows or steps for, ``DataError`` if a shard
    cannot be opened.
    """
    split = Split(config.data, manifest, TRAIN)

    def fresh() -> Order:
        return order_over(split, order_spec(config))

    order = fresh()
    for world in config.verify_worlds:
        if world > order.smallest_step:
            raise ConfigError(
                f"verify_worlds: {world} processes cannot share steps of {order.smallest_step} rows; leave it out"
            )
    cuts = config.verify_cuts or np.unique(np.linspace(0, order.steps_per_epoch, CUTS).astype(int)).tolist()
    if max(cuts) > order.steps_per_epoch:
        raise ConfigError(f"verify_cuts: {max(cuts)} is beyond an epoch's {order.steps_per_epoch} steps")
    results = []
    for epoch in range(config.verify_epochs):
        reference = [row_hash(order.batch_rows(epoch, step), step) for step in range(order.steps_per_epoch)]
        results.append(each_row_once(order, epoch))
        results += [same_steps(order, epoch, world, reference) for world in config.verify_worlds]
        following = config.verify_worlds[1:] + config.verify_worlds[:1]
        for before, after in zip(config.verify_worlds, following, strict=True):
            results.append(cut_and_continued(fresh, epoch, cuts, before, after, reference))
    return results


def each_row_once(order: Order, epoch: int) -> dict[str, Any]:
    """Count how often each row comes in an epoch."""
    counts = np.zeros(order.num_rows, np.int64)
    for step in range(order.steps_per_epoch):
        np.add.at(counts, order.batch_rows(epoch, step), 1)
    once = int((counts == 1).sum())
    return {
        "what": "each row once",
        "epoch": epoch,
        "holds": once == order.num_rows,
        "sentence": f"epoch {epoch}: {once:,} of {order.num_rows:,} rows came exactly once",
    }


def same_steps(order: Order, epoch: int, world: int, reference: list[int]) -> dict[str, Any]:
    """Every rank has rows at every step, and together the ranks have the global batch."""
    steps = np.zeros(world, np.int64)
    equal = True
    for step, expected in enumerate(reference):
        total = 0
        for rank in range(world):
            rows = order.rank_rows(epoch, step, rank, world)
            steps[rank] += len(rows) > 0
            total += row_hash(rows, step)
        equal = equal and total % (1 << 64) == expected
    return {
        "what": "same steps",
        "epoch": epoch,
        "world_size": world,
        "holds": equal and bool((steps == len(reference)).all()),
        "sentence": f"epoch {epoch}, {world} ranks: {int(steps.min()):,} to {int(steps.max()):,} steps with rows on "
        f"each rank; their rows {'are' if equal else 'ARE NOT'} the global batches",
    }


def cut_and_continued(
    fresh: Any, epoch: int, cuts: list[int], before: int, after: int, reference: list[int]
) -> dict[str, Any]:
    """An epoch run to each cut on ``before`` ranks, then by new processes on ``after`` ranks, is the whole epoch."""
    failed = []
    for cut in cuts:
        parts = ((fresh(), range(cut), before), (fresh(), range(cut, len(reference)), after))
        hashes = [
            sum(row_hash(order.rank_rows(epoch, step, rank, world), step) for rank in range(world)) % (1 << 64)
            for order, steps, world in parts
            for step in steps
        ]
        if hashes != reference:
            failed.append(cut)
    return {
        "what": "cut and continued",
        "epoch": epoch,
        "world_sizes": [before, after],
        "cuts": cuts,
        "holds": not failed,
        "sentence": f"epoch {epoch}, cut at {len(cuts)} steps on {before} ranks and continued on {after}: "
        + ("the same global batches" if not failed else f"OTHER global batches when cut at {failed}"),
    }
