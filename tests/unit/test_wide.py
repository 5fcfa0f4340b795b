# SPDX-License-Identifier: Apache-2.0
"""The wide part: its features are those of a plain formula, in both layouts, and its step changes what it should."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from harness.batch import Batch, StepBatch
from harness.config import ModelConfig, OptimConfig
from harness.model.classifier import Classifier, Objective
from harness.model.wide import (
    FLOOR,
    NONE,
    UNOWNED,
    USUAL,
    TableGradient,
    Weighing,
    WidePart,
    keys_of,
    spread,
)
from harness.ranks.distributed import World
from harness.training import wide as features
from harness.training.wide import COUNTED_ROWS, WideDescent, count_features, pieces, wide_rate
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

VOCABULARY, BUCKETS = 40, 1 << 22
"""So many buckets that 1,640 possible features do not collide."""


def make_rows(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    lengths = np.sort(random.integers(1, 30, rows))[::-1].copy()
    ids = random.zipf(1.4, (rows, lengths.max())) % (VOCABULARY - 2) + 2
    return torch.from_numpy(ids * (np.arange(lengths.max()) < lengths[:, None])), torch.from_numpy(lengths)


def make_batch(ids: torch.Tensor, lengths: torch.Tensor, packed: bool) -> Batch:
    rows = np.arange(len(ids))
    labels = torch.from_numpy(rows % 2)
    ids = ids.to(torch.int32)
    if not packed:
        return Batch(ids, lengths, labels, rows)
    steps = [ids[lengths > time, time] for time in range(ids.shape[1])]
    return Batch(torch.cat(steps), lengths, labels, rows, torch.tensor([len(step) for step in steps]))


def ready(ids: torch.Tensor, lengths: torch.Tensor, outputs: int = 1) -> WidePart:
    wide = WidePart(BUCKETS, outputs).double()
    wide.set_weights(wide.count(ids, lengths, torch.arange(len(ids)) % 2, 2), len(ids))
    return wide


def weighed(
    texts: list[str],
    labels: np.ndarray,
    longest: int = 2,
    min_rows: int = 2,
    power: float = 0.5,
    tail: int = 0,
    binary: bool = False,
) -> sparse.csr_matrix:
    """What scikit-learn counts, weighed and scaled by hand."""
    counts = CountVectorizer(ngram_range=(1, longest), min_df=min_rows).fit_transform(texts)
    if tail:
        ends = [" ".join(text.split()[-tail:]) for text in texts]
        counts = sparse.hstack((counts, CountVectorizer(ngram_range=(1, 2), min_df=min_rows).fit_transform(ends)))
    held = (counts > 0).toarray()
    idf = 1 + np.log((1 + len(texts)) / (1 + held.sum(0)))
    ones, others = 1 + held[labels == 1].sum(0), 1 + held[labels == 0].sum(0)
    ratio = np.log(ones / ones.sum() / (others / others.sum()))
    counts = counts.astype(float)
    counts.data = np.ones_like(counts.data) if binary else 1 + np.log(counts.data)
    return normalize(sparse.csr_matrix(counts.multiply(idf * (0.05 + np.abs(ratio)) ** power)))


@pytest.mark.parametrize("packed", [False, True])
def test_features_are_counted_and_weighed_as_scikit_learn_and_a_plain_formula_do(packed: bool) -> None:
    ids, lengths = make_rows(60)
    texts = [" ".join(f"w{one}" for one in row[:length]) for row, length in zip(ids, lengths, strict=True)]
    theirs = weighed(texts, np.arange(60) % 2)
    bucket, value = ready(ids, lengths).features(make_batch(ids, lengths, packed))
    held = (value > 0).sum(1).numpy()
    np.testing.assert_array_equal(held, np.diff(theirs.indptr))
    for row in range(len(texts)):
        assert len(set(bucket[row][value[row] > 0].tolist())) == held[row]
        mine = np.sort(value[row][value[row] > 0].numpy())
        np.testing.assert_allclose(mine, np.sort(theirs[row].data), atol=1e-12)


def test_a_step_is_gradient_descent_on_the_mean_loss() -> None:
    ids, lengths = make_rows(20)
    batch = make_batch(ids, lengths, packed=True)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), VOCABULARY).double()
    objective = Objective(model, label_smoothing=0.1)
    assert model.wide is not None
    model.wide.set_weights(model.wide.count(ids, lengths, batch.labels, 2), len(ids))
    model.wide.table.normal_(generator=torch.Generator().manual_seed(0))
    table = model.wide.table.clone().requires_grad_()
    bucket, value = model.wide.features(batch)
    logits = (table[bucket, 0] * value).sum(1) + model.wide.bias
    objective.losses(logits, batch).mean().backward()
    before = model.wide.table.clone()
    objective(batch, 0)
    assert objective.table_gradient is not None
    model.wide.update(objective.table_gradient, torch.tensor(5.0 / len(ids)))
    assert table.grad is not None
    np.testing.assert_allclose(model.wide.table, before - 5.0 * table.grad, atol=1e-12)
    untouched = torch.ones(256, dtype=torch.bool)
    untouched[bucket[value > 0]] = False
    assert untouched.any()
    assert torch.equal(model.wide.table[untouched], before[untouched])


def test_the_network_learns_as_if_the_wide_part_were_not_there() -> None:
    ids, lengths = make_rows(8)
    batch = make_batch(ids, lengths, packed=False)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), VOCABULARY)
    assert model.wide is not None
    objective = Objective(model)
    alone = objective(batch, 0)
    model.wide.set_weights(model.wide.count(ids, lengths, batch.labels, 2), len(ids))
    model.wide.table += 1.0
    assert objective(batch, 0) == alone
    with torch.no_grad():
        for share in (1.0, 0.25):
            model.wide.share.fill_(share)
            assert torch.equal(model(batch), model.read(batch) + share * model.wide(batch)[:, 0])
        assert (model.wide(batch).abs() > 0.5).all()


def test_the_rate_climbs_and_falls_to_zero() -> None:
    rates = [wide_rate(step, 10, OptimConfig(wide_lr=100.0, wide_warmup=0.4)) for step in range(10)]
    np.testing.assert_allclose(rates, [25, 45, 60, 70, 60, 50, 40, 30, 20, 10])
    at_once = [wide_rate(step, 4, OptimConfig(wide_lr=8.0)) for step in range(4)]
    assert at_once == [8, 6, 4, 2]
    assert wide_rate(0, 3, OptimConfig(wide_lr=8.0, wide_warmup=0.1)) == 8.0  # less than a step


@pytest.mark.parametrize("smoothing", [None, 0.4])
def test_labels_of_the_wide_part_are_smoothed_apart(smoothing: float | None) -> None:
    ids, lengths = make_rows(6)
    batch = make_batch(ids, lengths, packed=False)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), VOCABULARY)
    objective = Objective(model, label_smoothing=0.2, wide_smoothing=smoothing)
    loss = objective(batch, 0)
    assert objective.table_gradient is not None
    own = 0.2 if smoothing is None else smoothing
    expected = 0.5 - (batch.labels * (1 - own) + own / 2)  # a table of zeros says one half of every row
    np.testing.assert_allclose(objective.table_gradient.error[:, 0], expected, atol=1e-7)
    assert loss == Objective(model, label_smoothing=0.2)(batch, 0)


@dataclass(frozen=True)
class Echo(World):
    """Two ranks that have the same rows."""

    world_size: int = 2

    def gather_on_device(self, values: torch.Tensor, what: str) -> torch.Tensor:
        return torch.cat((values, values))


@pytest.mark.parametrize("dtype", [torch.float32])
def test_ranks_get_what_was_sent_and_empty_rows_and_places(dtype: torch.dtype) -> None:
    value, error = torch.tensor([[0.1, 0.0]], dtype=dtype), torch.tensor([[1e-30, 3.0]], dtype=dtype)
    sent = TableGradient(torch.tensor([[7, (1 << 30) - 1]]), value, error)
    came = WideDescent(WidePart(64, 2), Echo()).exchange(sent, rows=2, places=3)
    assert came.bucket.tolist() == 2 * [[7, (1 << 30) - 1, 0], [0, 0, 0]]
    for held, wanted in ((came.value[::2, :2], value), (came.error[::2], error)):
        assert held.dtype == dtype
        assert torch.equal(held, wanted.repeat(2, 1))
    assert not came.value[:, 2:].any()
    assert not came.value[1::2].any()
    assert not came.error[1::2].any()


@pytest.mark.parametrize("time", [1, 3, 11])
@pytest.mark.parametrize(("longest", "tail"), [(1, 0), (4, 0), (3, 5)])
def test_the_number_of_places_is_known_from_the_longest_row(time: int, longest: int, tail: int) -> None:
    wide = WidePart(64, 1, longest, tail)
    found = wide.features(make_batch(torch.ones(1, time, dtype=torch.int64), torch.tensor([time]), packed=False))[1]
    assert wide.num_places(time) == found.shape[1]


class Added(TorchDispatchMode):
    """Notes the rows of tables that numbers are added to."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index_add_.default:
            self.rows += args[2].tolist()
        return func(*args, **(kwargs or {}))


def test_places_without_a_feature_do_not_all_add_to_one_bucket() -> None:
    ids, lengths = make_rows(40)
    batch = make_batch(ids, lengths, packed=False)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=1 << 12), VOCABULARY).double()
    assert model.wide is not None
    model.wide.set_weights(model.wide.count(ids, lengths, batch.labels, 2), len(ids))
    objective = Objective(model)
    objective(batch, 0)
    touched = objective.table_gradient
    assert touched is not None
    with Added() as added:
        WideDescent(model.wide, World()).step([touched], StepBatch(0, 0, [batch], len(ids)), 1.0, torch.zeros(()))
    bucket, value = model.wide.features(batch)
    assert sorted(added.rows) == sorted(bucket[value != 0].tolist())
    absent = spread(bucket, value, 1 << 12)[value == 0]  # a card cannot leave them out without a wait of the host
    assert len(absent) > 1000
    assert int(absent.bincount().max()) == 1
    assert torch.equal(spread(bucket, value, 1 << 12)[value != 0], bucket[value != 0])


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (OptimConfig, "wide_warmup", 1.5),
        (OptimConfig, "wide_ratio", 5.0),
        (OptimConfig, "wide_min_rows", 0),
        (OptimConfig, "wide_smoothing", 1.0),
        (ModelConfig, "wide_tail", 1025),
        (ModelConfig, "wide_ngrams", 9),
        (ModelConfig, "wide", 1000),
    ],
)
def test_what_makes_no_sense_for_the_wide_part_is_refused(part: Any, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^(optim|model)\.{key}: .*{value} is out of range: expected"):
        part(**{key: value})


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
        (5, 0, USUAL),
        (2, 4, USUAL),
        (3, 12, Weighing(3, 1.0)),
    ],
)
def test_longer_ngrams_and_those_of_the_end_are_counted_and_weighed_as_scikit_learn_and_a_plain_formula_do(
    longest: int, tail: int, weighing: Weighing, tmp_path: Path
) -> None:
    split, wide = taught_texts(tmp_path, longest, tail=tail, weighing=weighing)
    wide.binary = tail > 9
    texts, labels, found = [], [], []
    for ids, lengths, some in pieces(split, 1, 0):
        texts += [" ".join(f"w{one}" for one in row[:length]) for row, length in zip(ids, lengths, strict=True)]
        labels += some.tolist()
        found += list(wide.features(make_batch(ids, lengths, packed=False))[1])
    theirs = weighed(texts, np.array(labels), longest, weighing.min_rows, weighing.power, tail, binary=wide.binary)
    for number, value in enumerate(found):
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
    found = {bucket: bucket << wide.shift | name for bucket, name in enumerate(wide.owners.tolist()) if name != UNOWNED}
    assert {bucket: rows_with[key] for bucket, key in found.items()} == best
    assert len(found) == 64
    assert len(rows_with) > 1000  # so that each bucket had many to choose from
