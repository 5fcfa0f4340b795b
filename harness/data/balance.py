# SPDX-License-Identifier: Apache-2.0
"""Rows of each class, and whether they and the steps are enough to learn from: said before a training, by the manifest.

All are pure functions of figures.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping

from preprocessing.base.printable import percent
from preprocessing.dataset.shards import Manifest

NAMED = 6
"""Classes that are named one by one; of more, the largest and the smallest."""
LOPSIDED = 5
"""A class with so many times the rows of another one makes accuracy say little of the other one."""
FEW_STEPS = 300
"""With fewer updates weights that start from random numbers have mostly not learned what is there to learn."""


def class_rows(manifest: Manifest, split: str) -> dict[str, int]:
    """Rows of each class in a split, in the order of the labels; 0 everywhere if there is no such split."""
    rows = dict.fromkeys(manifest.labels, 0)
    for shard in manifest.splits.get(split, []):
        for number, count in shard.labels.items():
            rows[manifest.labels[int(number)]] += count
    return rows


def in_words(rows: Mapping[str, int]) -> str:
    """``2: negative 800, positive 795 training rows``; of many classes the largest and the smallest."""
    if len(rows) <= NAMED:
        named = ", ".join(f"{name} {count:,}" for name, count in rows.items())
        return f"{len(rows)}: {named} training rows"
    by_size = sorted(rows, key=lambda name: -rows[name])
    largest, smallest = by_size[0], by_size[-1]
    if rows[largest] == rows[smallest]:
        return f"{len(rows)} of {rows[largest]:,} training rows each"
    low, high = f"{rows[smallest]:,} ({smallest})", f"{rows[largest]:,} ({largest})"
    return f"{len(rows)} of {low} to {high} training rows"


def imbalance(rows: Mapping[str, int], weights: Mapping[str, float], threshold: str = "fixed") -> str | None:
    """What to do about classes of very different size; None where they are not, or something is done.

    ``rows`` of the training by class, ``weights`` as ``optim.class_weights``, ``threshold`` as ``evaluation``'s.
    """
    some = {name: count for name, count in rows.items() if count}
    if len(some) < 2 or weights or threshold != "fixed":
        return None
    largest, smallest = max(some, key=lambda name: some[name]), min(some, key=lambda name: some[name])
    ratio = some[largest] / some[smallest]
    if ratio < LOPSIDED:
        return None
    share = percent(some[smallest] / sum(some.values()))
    weighed = {name: rounded(math.sqrt(some[largest] / some[name])) for name in small_classes(some)}
    option = f"--optim.class_weights {shlex.quote(json.dumps(weighed, ensure_ascii=False, separators=(',', ':')))}"
    seen = f"{smallest!r} has {share} of the rows, {largest!r} {ratio:.0f} times as many: accuracy says little of it"
    if len(rows) > 2:
        return f"{seen}; look at balanced accuracy and macro F1, and weigh small classes, as in {option}"
    second = list(rows)[1] == smallest  # whose F1 is the figure, and what the threshold is chosen for
    also = " or choose --evaluation.threshold f1" if second else ""
    return f"{seen}; look at balanced accuracy{' and F1' if second else ''}, and weigh it ({option}){also}"


def small_classes(rows: Mapping[str, int], most: int = 3) -> list[str]:
    """The smallest classes with less than a ``LOPSIDED``-th of the largest one's rows."""
    limit = max(rows.values()) / LOPSIDED
    return sorted((name for name in rows if rows[name] <= limit), key=lambda name: rows[name])[:most]


def rounded(weight: float) -> float:
    """A weight with two digits that count."""
    return float(f"{weight:.2g}")


def few_steps(steps_per_epoch: int, epochs: int) -> str | None:
    """What to do about a run of too few updates; None where there are enough."""
    total = steps_per_epoch * epochs
    if total >= FEW_STEPS:
        return None
    enough = -(-FEW_STEPS // steps_per_epoch)
    return f"{total} updates are few; --epochs {enough} makes {enough * steps_per_epoch}, or lower --global_batch"
