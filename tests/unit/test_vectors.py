# SPDX-License-Identifier: Apache-2.0
"""Word vectors of a dataset's texts: gensim's input, stored results, and refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
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
    word_table,
    write_corpus,
)
from preprocessing.dataset.verification import verify
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes  # gensim asks the system for its name, by a program
SMALL = VectorsConfig(dim=8, window=3, negative=4, epochs=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without vectors."""
    root = tmp_path_factory.mktemp("vectors") / "data"
    write_dataset(root, {"train": 150, "validation": 20, "test": 20})
    return root


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A writable copy."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def quiet(text: str) -> None:
    """Ignore messages."""


def names_of(size: int) -> list[str]:
    """gensim's word for each id."""
    return word_table(size).tobytes().decode("ascii").split()


def test_vectors_are_those_of_gensim_called_by_hand(whole: Path, tmp_path: Path) -> None:
    """gensim gets every row once, with ids as words, as in its manual."""
    from gensim.models import Word2Vec

    manifest = read_manifest(whole)
    split = Split(whole, manifest, "train")
    counted = write_corpus(tmp_path / "lines", [split], manifest.vocabulary_size, 0)
    settings = VectorSettings(dim=8, window=3, negative=4, epochs=2)
    ours = command.learn(tmp_path / "lines", counted, len(split), settings, 1)
    by_name = {name: str(number) for number, name in enumerate(names_of(manifest.vocabulary_size))}
    lines = [[by_name[word] for word in line.split()] for line in (tmp_path / "lines").read_text().splitlines()]
    texts = [ids[:length] for block in split.blocks for ids, length in zip(block.ids, block.length, strict=True)]
    assert sorted(lines) == sorted([*map(str, ids)] for ids in texts)
    np.testing.assert_array_equal(counted, np.bincount(np.concatenate(texts), minlength=manifest.vocabulary_size))
    (tmp_path / "plain").write_text("".join(" ".join(line) + "\n" for line in lines))
    counts = {str(number): int(count) for number, count in enumerate(counted) if count}
    plain = Word2Vec(vector_size=8, window=3, negative=4, min_count=1, workers=1, seed=0, sorted_vocab=0)
    plain.build_vocab_from_freq(counts)
    plain.train(
        corpus_file=str(tmp_path / "plain"), total_words=int(counted.sum()), total_examples=len(lines), epochs=2
    )
    for number in range(manifest.vocabulary_size):
        expected = plain.wv[str(number)] if str(number) in counts else np.zeros(8)
        np.testing.assert_array_equal(ours[number], expected)
    assert not ours[0].any()


def test_kept_beside_the_shards_and_found_again(data: Path) -> None:
    said: list[str] = []
    kept, found = keep_vectors(data, SMALL, said.append)
    assert not found
    assert said[0].startswith("learning   vectors of 4,")
    assert said[0].endswith("tokens of train: 8 numbers, window 3, 4 negatives, 2 epochs, seed 0; threads: 1, about 0s")
    manifest = read_manifest(data)
    vectors = kept.read()
    assert vectors.shape == (manifest.vocabulary_size, 8)
    assert kept.info.dataset == manifest.fingerprint
    assert (kept.info.words, kept.info.threads) == (int(vectors.any(axis=1).sum()), 1)
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


def test_a_remote_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match="name a local dataset directory"):
        command.main(command.OfDataset(data="s3://bucket/data"))
