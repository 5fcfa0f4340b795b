# SPDX-License-Identifier: Apache-2.0
"""Which features there are before the wide part learns: whose rows are counted, what each weighs, who owns a bucket."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.model.wide import FLOOR, NOBODY, NONE, USUAL, Weighing, WidePart, keys_of
from harness.ranks.distributed import World
from harness.training import wide as features
from harness.training.wide import COUNTED_ROWS, count_features, pieces
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset
from tests.unit.test_wide import BUCKETS, make_batch, weighed


@pytest.mark.parametrize("every", [1, 3, 500])
def test_rows_that_are_counted_are_spread_and_each_is_counted_by_one_rank(every: int, tmp_path) -> None:
    write_dataset(tmp_path, {"train": 400, "validation": 10, "test": 10})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    assert len(split) < COUNTED_ROWS
    rows = [sum(len(lengths) for _, lengths, *_ in pieces(split, every, first)) for first in range(every)]
    assert sum(rows) == 400
    assert max(rows) - min(rows) <= 1
    tokens = [int(lengths.sum()) for _, lengths, *_ in pieces(split, 1, 0)]
    assert sum(tokens) == sum(int(block.length.sum()) for block in split.blocks)


def wide_over(split: Split, beside: Split | None) -> WidePart:
    wide = WidePart(1 << 16, 1).double()
    count_features(wide, split, 2, World(), beside)
    return wide


def test_what_only_unlabelled_rows_have_tells_of_no_label(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 40, "validation": 10, "unlabelled": 400})
    train, rows = (Split(tmp_path, read_manifest(tmp_path), name) for name in ("train", "unlabelled"))
    alone, both = wide_over(train, None), wide_over(train, rows)
    everyone = torch.zeros(1 << 16, dtype=torch.int64)
    own = torch.zeros(1 << 16, dtype=torch.int64)
    for split in (train, rows):
        for ids, lengths, labels in pieces(split, 1, 0):
            counts = both.count(ids, lengths, torch.zeros_like(labels), 1)[:, 0]
            everyone += counts
            own += counts if split is train else 0
    new = (own == 0) & (everyone >= 2)
    assert new.any()
    assert not alone.weights[new].any()
    idf = 1 + torch.log((1 + 440) / (1 + everyone[new].double()))
    np.testing.assert_allclose(both.weights[new], idf * FLOOR**0.5, rtol=1e-12)
    assert not both.weights[everyone < 2].any()
    assert (both.weights[own >= 2] > 0).all()


def taught_texts(
    tmp_path: Path, longest: int, buckets: int = BUCKETS, tail: int = 0, weighing: Weighing = USUAL
) -> tuple[Split, WidePart]:
    write_dataset(tmp_path, {"train": 300, "validation": 10})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    wide = WidePart(buckets, 1, longest, tail).double()
    count_features(wide, split, 2, World(), weighing=weighing)
    return split, wide


@pytest.mark.parametrize(
    ("longest", "tail", "weighing"),
    [
        (3, 0, USUAL),
        (5, 0, USUAL),
        (2, 4, USUAL),
        (3, 12, Weighing(3, 1.0)),
        (4, 7, Weighing(4, 0.0)),
    ],
)
def test_longer_ngrams_and_those_of_the_end_are_counted_and_weighed_as_scikit_learn_and_a_plain_formula_do(
    longest: int, tail: int, weighing: Weighing, tmp_path: Path
) -> None:
    split, wide = taught_texts(tmp_path, longest, tail=tail, weighing=weighing)
    wide.binary = tail > 9
    rows = [
        (row[:length].tolist(), int(label))
        for ids, lengths, labels in pieces(split, 1, 0)
        for row, length, label in zip(ids, lengths, labels, strict=True)
    ]
    texts = [" ".join(f"w{one}" for one in row) for row, _ in rows]
    labels = np.array([label for _, label in rows])
    theirs = weighed(texts, labels, longest, weighing.min_rows, weighing.power, tail, binary=wide.binary)
    for number, (row, _) in enumerate(rows):
        _, value = wide.features(make_batch(torch.tensor([row]), torch.tensor([len(row)]), packed=False))
        np.testing.assert_allclose(np.sort(value[value > 0]), np.sort(theirs[number].data), atol=1e-12)


def rows_of_triples(split: Split) -> Counter[int]:
    """How many rows have each word, pair and triple, by its key."""
    rows_with: Counter[int] = Counter()
    for ids, lengths, *_ in pieces(split, 1, 0):
        for row in keys_of(ids, lengths, 3):
            rows_with.update({int(key) for key in row if key < NONE})
    return rows_with


def test_a_bucket_belongs_to_the_ngram_that_most_rows_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SLOTS_A_BUCKET", 1 << 14)  # for counts that are exact
    split, wide = taught_texts(tmp_path, 3, buckets=64)
    rows_with = rows_of_triples(split)
    assert wide.owners is not None
    best: dict[int, int] = {}
    for key, many in rows_with.items():
        best[key >> wide.shift] = max(many, best.get(key >> wide.shift, 0))
    found = {bucket: bucket << wide.shift | name for bucket, name in enumerate(wide.owners.tolist()) if name != NOBODY}
    assert {bucket: rows_with[key] for bucket, key in found.items()} == best
    assert len(found) == 64
    assert len(rows_with) > 1000  # so that each bucket had many to choose from


def test_a_frequent_ngram_keeps_its_bucket_though_the_sketch_is_crowded(tmp_path: Path) -> None:
    split, wide = taught_texts(tmp_path, 3, buckets=256)
    rows_with = rows_of_triples(split)
    frequent = [key for key, _ in rows_with.most_common(20)]
    assert len({key >> wide.shift for key in frequent}) == len(frequent)
    assert wide.owners is not None
    assert all(wide.owners[key >> wide.shift] == wide.name_of(torch.tensor(key)) for key in frequent)


def test_an_ngram_that_owns_no_bucket_counts_for_nothing() -> None:
    wide = WidePart(1 << 8, 1, 3)
    wide.weights += 1
    wide.table += 1
    batch = make_batch(torch.tensor([[2, 3, 4]]), torch.tensor([3]), packed=True)
    assert wide(batch).tolist() == [[0.0]]
    key = keys_of(torch.tensor([[2, 3, 4]]), torch.tensor([3]), 3)[0, -1]
    assert wide.owners is not None
    wide.owners[wide.bucket_of(key)] = wide.name_of(key)
    assert wide(batch).tolist() == [[1.0]]
