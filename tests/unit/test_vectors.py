# SPDX-License-Identifier: Apache-2.0
"""Word vectors of a dataset's texts: the numbers of a plain decomposition, stored results, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preprocessing.base import atomic
from preprocessing.dataset import vectors as command
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.dataset.vectors import (
    VectorsConfig,
    VectorSettings,
    find_kept,
    folder_of,
    index_of,
    keep_vectors,
    read_kept,
)
from preprocessing.dataset.verification import verify
from tests.datasets import copy_of, shared_dataset, write_dataset

SMALL = VectorsConfig(dim=8, window=3)


whole = shared_dataset({"train": 150, "validation": 20, "test": 20})
"""A dataset without vectors."""


data = copy_of("whole")
"""A writable copy."""


def quiet(text: str) -> None:
    """Ignore messages."""


def plain_associations(texts: list[np.ndarray], size: int, window: int) -> np.ndarray:
    """Positive pointwise mutual information of words within ``window`` of each other, by loops."""
    counts = np.zeros((size, size))
    for ids in texts:
        for i, word in enumerate(ids):
            for j in range(max(0, i - window), min(len(ids), i + window + 1)):
                if j != i:
                    counts[word, ids[j]] += 1 / abs(i - j)
    share = counts.sum(axis=0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = counts / counts.sum(axis=1, keepdims=True) / (share / share.sum())
        return np.where(counts > 0, np.maximum(np.log(lift), 0), 0)


def test_vectors_are_those_of_a_plain_decomposition(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared by their products, since signs are free; later words get the first ones' directions."""
    manifest = read_manifest(whole)
    blocks, size = Split(whole, manifest, "train").blocks, manifest.vocabulary_size
    texts = [ids[:length] for block in blocks for ids, length in zip(block.ids, block.length, strict=True)]
    expected = plain_associations(texts, size, 3)
    left, values, _ = np.linalg.svd(expected)
    monkeypatch.setattr(command, "OVERSAMPLING", size)  # exact: made-up texts have no small singular values
    ours = command.learn(blocks, size, VectorSettings(dim=8, window=3))
    np.testing.assert_allclose(ours @ ours.T, left[:, :8] * values[:8] @ left[:, :8].T, atol=2e-3)
    np.testing.assert_array_equal(ours.any(axis=1), expected.any(axis=1))
    assert not ours[0].any()
    wide = command.learn(blocks, size, VectorSettings(dim=size + 40, window=3))
    np.testing.assert_allclose(wide @ wide.T, left * values @ left.T, atol=2e-3)  # no more directions than words
    monkeypatch.setattr(command, "WORDS_AT_ONCE", size - 5)
    parts = command.learn(blocks, size, VectorSettings(dim=8, window=3))
    np.testing.assert_allclose(np.abs(parts[:, 0]), np.abs(ours[:, 0]), atol=0.1)
    assert parts[-5:].any(axis=1).all()


def test_texts_of_one_word_teach_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 30}, longest=1)
    assert keep_vectors(tmp_path, SMALL, quiet)[0].info.words == 0


def test_of_a_large_corpus_a_sample_is_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(Split(whole, read_manifest(whole), "train").blocks) * 40
    assert [id(block) for block in command.sample(blocks)] == [id(block) for block in blocks]
    monkeypatch.setattr(command, "MOST_TOKENS", most := sum(int(block.length.sum()) for block in blocks) // 3)
    assert most <= sum(int(block.length.sum()) for block in command.sample(blocks)) <= 1.2 * most


def test_kept_beside_the_shards_and_found_again(data: Path) -> None:
    said = []
    kept, found = keep_vectors(data, SMALL, said.append)
    assert not found
    assert said[0].startswith("learning   vectors of 4,")
    assert said[0].endswith("tokens of train: 8 numbers, window 3; about 0s")
    manifest = read_manifest(data)
    vectors = kept.read()
    assert vectors.shape == (manifest.vocabulary_size, 8)
    assert kept.info.dataset == manifest.fingerprint
    assert kept.info.words == int(vectors.any(axis=1).sum())
    again, found = keep_vectors(data, SMALL, said.append)
    assert (found, again, len(said)) == (True, kept, 1)
    assert verify(data) == []
    names = {path.name for path in folder_of(data).iterdir()}
    assert names == {kept.path.name, index_of(kept.path).name, ".lock"}


def test_a_name_means_completeness(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 2: after a kill between array and index, there are no vectors yet."""

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_vectors(data, SMALL, quiet)
    assert find_kept(folder_of(data), read_manifest(data).fingerprint, 8) is None
    assert [path.suffix for path in folder_of(data).iterdir() if path.name != ".lock"] == [".npy"]
    kept, found = keep_vectors(data, SMALL, quiet)
    assert not found
    assert read_kept(kept.path) == kept
