# SPDX-License-Identifier: Apache-2.0
"""The wide part: its features are those of a plain formula, in both layouts, and its step changes what it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig
from harness.model.classifier import Classifier, Objective
from harness.model.wide import (
    USUAL,
    Weighing,
    WidePart,
)
from harness.ranks.distributed import World
from harness.training.wide import COUNTED_ROWS, count_features, pieces, wide_rate
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

VOCABULARY = 40
BUCKETS = 1 << 20
"""So many that hardly two features collide."""


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
    assert [wide_rate(step, 4, OptimConfig(wide_lr=8.0)) for step in range(4)] == [8, 6, 4, 2]


def test_labels_of_the_wide_part_are_smoothed_apart() -> None:
    ids, lengths = make_rows(6)
    batch = make_batch(ids, lengths, packed=False)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), VOCABULARY)
    objective = Objective(model, label_smoothing=0.2, wide_smoothing=0.4)
    loss = objective(batch, 0)
    assert objective.table_gradient is not None
    expected = 0.5 - (batch.labels * 0.6 + 0.2)  # a table of zeros says one half of every row
    np.testing.assert_allclose(objective.table_gradient.error[:, 0], expected, atol=1e-7)
    assert loss == Objective(model, label_smoothing=0.2)(batch, 0)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (OptimConfig, "wide_warmup", 1.5),
        (ModelConfig, "wide_ngrams", 9),
        (ModelConfig, "wide", 1000),
    ],
)
def test_what_makes_no_sense_for_the_wide_part_is_refused(part: Any, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^(optim|model)\.{key}: .*{value} is out of range: expected"):
        part(**{key: value})


def test_rows_that_are_counted_are_spread_and_each_is_counted_by_one_rank(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 400, "validation": 10, "test": 10})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    assert len(split) < COUNTED_ROWS
    rows = [sum(len(lengths) for _, lengths, *_ in pieces(split, 3, first)) for first in range(3)]
    assert sum(rows) == 400
    assert max(rows) - min(rows) <= 1


@pytest.mark.parametrize(
    ("longest", "tail", "weighing"),
    [
        (2, 0, USUAL),
        (3, 12, Weighing(3, 1.0)),
    ],
)
def test_features_are_counted_and_weighed_as_scikit_learn_and_a_plain_formula_do(
    longest: int, tail: int, weighing: Weighing, tmp_path: Path
) -> None:
    write_dataset(tmp_path, {"train": 150, "validation": 10})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    wide = WidePart(BUCKETS, 1, longest, tail, binary=tail > 0).double()
    count_features(wide, split, 2, World(), weighing=weighing)
    texts, labels, found = [], [], []
    for ids, lengths, some in pieces(split, 1, 0):
        texts += [" ".join(f"w{one}" for one in row[:length]) for row, length in zip(ids, lengths, strict=True)]
        labels += some.tolist()
        for row, length in zip(ids, lengths, strict=True):
            found.append(wide.features(make_batch(row[None, :length], length[None], packed=len(found) % 2 > 0))[1][0])
    theirs = weighed(texts, np.array(labels), longest, weighing.min_rows, weighing.power, tail, binary=wide.binary)
    for number, value in enumerate(found):
        np.testing.assert_allclose(np.sort(value[value > 0]), np.sort(theirs[number].data), atol=1e-12)
