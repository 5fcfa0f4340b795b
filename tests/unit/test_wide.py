# SPDX-License-Identifier: Apache-2.0
"""The linear part: features and weights equal a plain formula, in both layouts, and it is scikit-learn's optimum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.classifier import Classifier, Objective
from harness.model.wide import WidePart
from harness.ranks.distributed import World
from harness.training import wide as training
from harness.training.wide import Source, learn
from preprocessing.dataset.shards import read_manifest
from tests.batches import packed_batch, padded_batch
from tests.datasets import split_of, write_dataset


def weighed(
    texts: list[str], labels: np.ndarray, longest: int, singles: bool
) -> tuple[sparse.csr_matrix, np.ndarray, list[str]]:
    """scikit-learn's counts, weighted and scaled by hand; the first texts have these labels. Also the names of the
    features.
    """
    vectorizer = CountVectorizer(ngram_range=(1, longest), token_pattern="[^ ]+")
    counts = vectorizer.fit_transform(texts).astype(float)
    names = vectorizer.get_feature_names_out()
    kept = ((counts > 0).sum(axis=0).A1 > 1) | np.array([singles and " " not in name for name in names])
    counts, names = counts[:, kept], names[kept]
    held = (counts > 0).toarray()
    idf, tells = 1 + np.log((1 + len(texts)) / (1 + held.sum(0))), np.zeros(held.shape[1])
    known, often = held[: len(labels)], held.sum(0) > 1
    for label in np.unique(labels):
        ones, others = 1 + known[labels == label].sum(0), 1 + known[labels != label].sum(0)
        tells = np.maximum(tells, np.abs(np.log(ones / ones[often].sum() / (others / others[often].sum()))))
    tells[(known.sum(0) == 0) | ~often] = 0
    counts.data = 1 + np.log(counts.data)
    weights = idf * (0.05 + tells) ** 0.5
    return normalize(sparse.csr_matrix(counts.multiply(weights))), weights, list(names)


def values_of_pieces(
    theirs: sparse.csr_matrix, weights: np.ndarray, names: list[str], tokens: list[str], labels: np.ndarray
) -> sparse.csr_matrix:
    """The values of the words' pieces in each text, by hand."""
    counts: dict[str, dict[int, int]] = {}
    for column, name in enumerate(names):
        word = f" {tokens[int(name[1:])]} " if " " not in name else ""
        for size in range(3, 6):
            for start in range(max(len(word) - size + 1, len(word) > 0)):
                of_word = counts.setdefault(word[start : start + size], {})
                of_word[column] = of_word.get(column, 0) + 1
            if len(word) <= size:
                break
    shared = [of_word for of_word in counts.values() if len(of_word) > 1]
    members = np.array([[of_word.get(column, 0) for of_word in shared] for column in range(len(names))])
    held = (theirs > 0).toarray() @ members.reshape(len(names), len(shared))
    known, often, tells = held[: len(labels)], held.sum(0) > 1, np.zeros(len(shared))
    for label in np.unique(labels):
        ones, others = 1 + known[labels == label].sum(0), 1 + known[labels != label].sum(0)
        tells = np.maximum(tells, np.abs(np.log(ones / ones[often].sum() / (others / others[often].sum()))))
    rows = theirs.shape[0]
    idf = 1 + np.log((1 + rows) / (1 + np.minimum(held.sum(0), rows)))
    values = theirs.multiply(1 / weights) @ members * (idf * (0.05 + tells) ** 0.5)
    words = np.linalg.norm(theirs.toarray()[:, members.any(axis=1)], axis=1).mean()
    return sparse.csr_matrix(values * words / max(np.linalg.norm(values, axis=1).mean(), 1e-12))


def test_the_network_learns_as_if_the_linear_part_were_not_there() -> None:
    batch = padded_batch(range(20, 4, -2), 40)
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=3, wide=256), 40)
    assert model.wide is not None
    objective = Objective(model)
    alone = objective(batch, 0)
    model.wide.weights += 1.0
    model.wide.table += 1.0
    assert objective(batch, 0) == alone
    with torch.no_grad():
        for share in (1.0, 0.25):
            model.wide.share.fill_(share)
            assert torch.equal(model(batch), model.read(batch) + share * model.wide(batch)[:, 0])
        assert (model.wide(batch).abs() > 0.5).all()


@pytest.mark.parametrize(
    ("longest", "classes", "soft", "spelling", "long"),
    [
        *((2, 2, False, "{0:c}", 64), (3, 2, True, "w{2}x{1}", 64)),
        *((2, 3, True, "great{1}{2}", 64), (2, 2, False, "great{1}{2}", 1)),
    ],
)
def test_it_is_the_optimum_that_scikit_learn_finds(
    longest: int, classes: int, soft: bool, spelling: str, long: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many buckets that no two features collide; words that share pieces or do not; long texts, without pieces."""
    monkeypatch.setattr(training, "LONG", long)
    monkeypatch.setattr(training, "TOLERANCE", 1e-14)
    monkeypatch.setattr(training, "MOST_STEPS", 2000)
    monkeypatch.setattr(training, "PIECE_BUCKETS", 1 << 22)
    write_dataset(tmp_path, {"train": 150, "validation": 10, "unlabelled": 60}, num_classes=classes)
    manifest, factors = read_manifest(tmp_path), np.linspace(1, 2, classes)
    sources = [Source(split_of(tmp_path), classes)]
    if soft:
        chances = np.random.default_rng(0).dirichlet(np.ones(classes), 60)
        given = chances[:, 1] if classes == 2 else chances
        sources.append(Source(split_of(tmp_path, "unlabelled"), classes, 0.7, given))
    wide = WidePart(1 << 23, 1 if classes == 2 else classes, longest).double()
    tokens = ["", "", *(spelling.format(n + 300, n % 5, n // 5) for n in range(2, manifest.vocabulary_size))]
    said = learn(wide, sources, factors, tokens, World())
    texts, shares, found, logits = [], [], [], []
    for source in sources:
        for ids, lengths, some in source.pieces(1):
            texts += [" ".join(f"w{one}" for one in row[:length]) for row, length in zip(ids, lengths, strict=True)]
            shares.append(some * source.weight / len(source.split))
            batch = Batch(ids.int(), lengths, torch.zeros(len(ids)), np.arange(len(ids)))
            found += list(wide.features(batch)[1])
            logits.append(wide(batch).numpy())
            falling = lengths.argsort(descending=True)
            batch = replace(batch, ids=batch.ids[falling], lengths=lengths[falling])
            assert torch.equal(wide.features(packed_batch(batch))[1], wide.features(batch)[1])
    targets = np.concatenate(shares) * factors
    theirs, weights, names = weighed(texts, labels := targets[:150].argmax(axis=1), longest, longest < 3 and long > 1)
    for number, value in enumerate(found):
        np.testing.assert_allclose(np.sort(value[value > 0]), np.sort(theirs[number].data), atol=1e-12)
    rows = max(len(source.split) / source.weight for source in sources)
    model = LogisticRegression(C=6.0 * rows, tol=1e-10, max_iter=5000)
    pieces = values_of_pieces(theirs, weights, names, tokens, labels)
    assert (pieces.nnz > 0) == (spelling != "{0:c}")
    whole = theirs if long == 1 else sparse.hstack([theirs, pieces]).tocsr()
    each = sparse.vstack([whole] * classes)
    model.fit(each, np.repeat(np.arange(classes), len(texts)), sample_weight=targets.T.ravel())
    expected = model.decision_function(whole)
    ours = np.concatenate(logits)
    ours = ours[:, 0] if classes == 2 else ours - ours.mean(axis=1, keepdims=True)
    expected = expected if classes == 2 else expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    assert np.ptp(expected) > 0.5
    assert f"{theirs.shape[1]:,} n-grams of {len(texts)} rows" in said


def test_of_large_corpora_evenly_spaced_rows_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, {"train": 150})
    source = Source(split_of(tmp_path), 2)
    every, third = (np.concatenate([ids[:, 0].numpy() for ids, _, _ in source.pieces(step)]) for step in (1, 3))
    assert np.array_equal(third, every[::3])
    monkeypatch.setattr(training, "MOST_PLACES", 1000)
    assert "n-grams of one row in" in learn(WidePart(1 << 12, 1), [source], np.ones(2), ["a"] * 2000, World())
