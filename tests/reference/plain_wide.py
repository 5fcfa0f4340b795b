# SPDX-License-Identifier: Apache-2.0
"""The wide part from its definition, row by row, as law 4 holds the real one against it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import torch

from harness.model.wide import WidePart, mixed
from preprocessing.dataset.shards import Split


def row_of(split: Split, number: int) -> tuple[list[int], int, np.ndarray]:
    """Ids, label and source row ``[1]`` of a row of a split."""
    block_number = int(np.searchsorted(split.block_starts, number, side="right")) - 1
    block, row = split.blocks[block_number], number - int(split.block_starts[block_number])
    return block.ids[row, : block.length[row]].tolist(), int(block.label[row]), block.row[row : row + 1]


def mix(key: int) -> int:
    """The 32 bits of a key, mixed."""
    return int(mixed(torch.tensor(key % 2**32)))


class PlainWide:
    """The wide part from its definition: TF-IDF row by row in dictionaries, gradient descent feature by feature."""

    def __init__(self, wide: WidePart, split: Split, num_classes: int, beside: Split | None) -> None:
        self.wide, self.split, self.num_classes, self.beside = wide, split, num_classes, beside
        self.change = torch.zeros_like(wide.table)
        self.bias_change = torch.zeros_like(wide.bias)

    def count(self, *, min_rows: int = 2, power: float = 0.5) -> None:
        """``power``: of what a feature tells."""
        wide, total = self.wide, Counter[int]()
        seen: defaultdict[tuple[int, int], float] = defaultdict(float)
        rows = 0
        if wide.owners is not None:
            self.give(min_rows)
        for source in self.sources():
            for number in range(len(source)):
                ids, label, _ = row_of(source, number)
                rows += 1
                for bucket in set(self.buckets(ids)):
                    total[bucket] += 1
                    if source is self.split:
                        seen[bucket, label] += 1
        kept = [bucket for bucket, many in total.items() if many >= min_rows]
        known = {bucket: sum(seen[bucket, label] for label in range(self.num_classes)) for bucket in kept}
        for bucket in kept:
            wide.weights[bucket] = 1 + math.log((1 + rows) / (1 + total[bucket]))
        tells = dict.fromkeys(kept, 0.0)
        for label in range(self.num_classes):
            inside = sum(1 + seen[bucket, label] for bucket in kept)
            outside = sum(1 + known[bucket] - seen[bucket, label] for bucket in kept)
            for bucket in kept:
                own, rest = 1 + seen[bucket, label], 1 + known[bucket] - seen[bucket, label]
                tells[bucket] = max(tells[bucket], abs(math.log(own / inside * outside / rest)))
        for bucket in kept:
            wide.weights[bucket] *= (0.05 + (tells[bucket] if known[bucket] else 0.0)) ** power

    def keys(self, ids: list[int]) -> list[int]:
        """Words first, then pairs and so on, then words and pairs of the end; ``mixed`` is the one thing that is not
        told again here.
        """
        keys = self.sequences(ids, self.wide.longest)
        if self.wide.tail:
            keys += [mix(key ^ 0x165667B1) for key in self.sequences(ids[-self.wide.tail :], 2)]
        return keys

    def sequences(self, ids: list[int], longest: int) -> list[int]:
        """Those of words, pairs and so on."""
        keys = [mix(one * 0x1E3779B1) for one in ids]
        before = ids
        for number in range(1, longest):
            ends = zip(before[:-1], ids[number:], strict=True)
            before = [mix(start * 0x05EBCA6B + one * 0x42B2AE35 + 0x1E3779B1) for start, one in ends]
            keys += before
        return keys

    def buckets(self, ids: list[int]) -> list[int]:
        """Those of all n-grams, or of those that own one."""
        size = 2**32 // self.wide.buckets
        if self.wide.owners is None:
            return [key // size for key in self.keys(ids)]
        return [key // size for key in self.keys(ids) if self.wide.owners[key // size] == key % size]

    def give(self, min_rows: int) -> None:
        """Each bucket to its n-gram that most rows have, by a sketch; the largest key of several such."""
        size = 2**32 // self.wide.buckets
        sketch: Counter[tuple[int, int]] = Counter()
        every = [row_of(source, number)[0] for source in self.sources() for number in range(len(source))]

        def slots(key: int) -> list[tuple[int, int]]:
            return [(0, key // (size // 8)), (1, mix(2**32 - 1 - key) // (size // 8))]

        for ids in every:
            sketch.update(slot for key in set(self.keys(ids)) for slot in slots(key))
        rows_with = {key: min(sketch[slot] for slot in slots(key)) for ids in every for key in self.keys(ids)}
        for key in sorted(rows_with, key=lambda key: (rows_with[key], key)):
            if rows_with[key] >= min_rows:
                self.wide.owners[key // size] = key % size

    def sources(self) -> list[Split]:
        """The splits whose rows are counted."""
        return [self.split] if self.beside is None else [self.split, self.beside]

    def learn(self, ids: list[int], loss_of: Callable[[torch.Tensor], torch.Tensor], rows: int) -> None:
        """``rows`` of its kind are in the step."""
        times = Counter(self.buckets(ids))
        features = {bucket: 1.0 if self.wide.binary else 1 + math.log(many) for bucket, many in times.items()}
        features = {bucket: value * float(self.wide.weights[bucket]) for bucket, value in features.items()}
        length = math.sqrt(sum(value**2 for value in features.values())) or 1.0
        logits = self.wide.bias.clone()
        for bucket, value in features.items():
            logits += value / length * self.wide.table[bucket]
        logits.requires_grad_()
        loss = loss_of(logits[0] if len(logits) == 1 else logits) / rows
        (error,) = torch.autograd.grad(loss, logits)
        for bucket, value in features.items():
            self.change[bucket] += value / length * error
        self.bias_change += 0.1 * error

    def step(self, rate: float) -> None:
        self.wide.table -= rate * self.change
        self.wide.bias -= rate * self.bias_change
        self.change.zero_()
        self.bias_change.zero_()
