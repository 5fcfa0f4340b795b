# SPDX-License-Identifier: Apache-2.0
"""The wide part: its features equal a plain formula, in both layouts; the network learns the same without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.classifier import Classifier, Objective
from harness.model.wide import (
    USUAL,
    Weighing,
    WidePart,
)
from harness.ranks.distributed import World
from harness.training.wide import count_features, pieces
from preprocessing.dataset.shards import Split, read_manifest
from tests.batches import packed_batch, padded_batch
from tests.datasets import write_dataset


def weighed(
    texts: list[str],
    labels: np.ndarray,
    longest: int,
    min_rows: int,
    power: float,
    tail: int,
) -> sparse.csr_matrix:
    """scikit-learn's counts, weighted and scaled by hand."""
    counts = CountVectorizer(ngram_range=(1, longest), min_df=min_rows).fit_transform(texts)
    if tail:
        ends = [" ".join(text.split()[-tail:]) for text in texts]
        counts = sparse.hstack((counts, CountVectorizer(ngram_range=(1, 2), min_df=min_rows).fit_transform(ends)))
    held = (counts > 0).toarray()
    idf = 1 + np.log((1 + len(texts)) / (1 + held.sum(0)))
    ones, others = 1 + held[labels == 1].sum(0), 1 + held[labels == 0].sum(0)
    ratio = np.log(ones / ones.sum() / (others / others.sum()))
    counts = counts.astype(float)
    counts.data = np.ones_like(counts.data) if tail else 1 + np.log(counts.data)
    return normalize(sparse.csr_matrix(counts.multiply(idf * (0.05 + np.abs(ratio)) ** power)))


def test_the_network_learns_as_if_the_wide_part_were_not_there() -> None:
    batch = padded_batch(range(20, 4, -2), 40)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), 40)
    assert model.wide is not None
    objective = Objective(model)
    alone = objective(batch, 0)
    model.wide.set_weights(model.wide.count(batch.ids.long(), batch.lengths, batch.labels, 2), 8)
    model.wide.table += 1.0
    assert objective(batch, 0) == alone
    with torch.no_grad():
        for share in (1.0, 0.25):
            model.wide.share.fill_(share)
            assert torch.equal(model(batch), model.read(batch) + share * model.wide(batch)[:, 0])
        assert (model.wide(batch).abs() > 0.5).all()


@pytest.mark.parametrize(
    ("longest", "tail", "weighing", "bits"),  # of buckets: so many that no two features collide
    [(2, 0, USUAL, 23), (3, 12, Weighing(3, 1.0), 20)],
)
def test_features_are_counted_and_weighed_as_scikit_learn_and_a_plain_formula_do(
    longest: int, tail: int, weighing: Weighing, bits: int, tmp_path: Path
) -> None:
    write_dataset(tmp_path, {"train": 150, "validation": 10})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    wide = WidePart(1 << bits, 1, longest, tail, binary=tail > 0).double()
    count_features(wide, split, 2, World(), weighing=weighing)
    texts, labels, found = [], [], []
    for ids, lengths, some in pieces(split, 1, 0):
        texts += [" ".join(f"w{one}" for one in row[:length]) for row, length in zip(ids, lengths, strict=True)]
        labels += some.tolist()
        batch = Batch(ids.int(), lengths, some, np.arange(len(ids)))
        found += list(wide.features(batch)[1])
        falling = lengths.argsort(descending=True)
        batch = replace(batch, ids=batch.ids[falling], lengths=lengths[falling])
        assert torch.equal(wide.features(packed_batch(batch))[1], wide.features(batch)[1])
    theirs = weighed(texts, np.array(labels), longest, weighing.min_rows, weighing.power, tail)
    for number, value in enumerate(found):
        np.testing.assert_allclose(np.sort(value[value > 0]), np.sort(theirs[number].data), atol=1e-12)
