# SPDX-License-Identifier: Apache-2.0
"""Word vectors: those of a dataset's texts are the numbers of a plain decomposition; those of a file
are the same rows in every format; and what an embedding starts from.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.config import InitConfig, ModelConfig, RunConfig
from harness.data.run_rows import check_data, hold_out
from harness.distributed.world import World
from harness.model.initialization import Start, read_start
from harness.training import preflight
from harness.training.assembly import begin
from padless.core.errors import ConfigError, DataError
from preprocessing.dataset import vectors
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.helpers.datasets import assign_folds, shared_dataset, split_of, texts_in, write_dataset

data = shared_dataset({"train": 150, "validation": 20, "test": 20})


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


def test_vectors_are_those_of_a_plain_decomposition(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared by their products, since signs are free; later words get the first ones' directions."""
    manifest = read_manifest(data)
    split, size = split_of(data), manifest.vocabulary_size
    blocks, expected = split.blocks, plain_associations(texts_in(split), size, 3)
    left_vectors, values, _ = np.linalg.svd(expected)
    monkeypatch.setattr(vectors, "OVERSAMPLING", size)  # exact: made-up texts have no small singular values
    monkeypatch.setattr(vectors, "WINDOW", 3)
    learned = vectors.learn_vectors(blocks, size, 8)
    np.testing.assert_allclose(learned @ learned.T, left_vectors[:, :8] * values[:8] @ left_vectors[:, :8].T, atol=2e-3)
    np.testing.assert_array_equal(learned.any(axis=1), expected.any(axis=1))
    assert not learned[0].any()


def learn_from(root: Path, *splits: Split) -> np.ndarray:
    blocks = [block for split in splits for block in split.blocks]
    return vectors.learn_vectors(blocks, read_manifest(root).vocabulary_size, DIM)


def check_scaled(start: Start, learned: np.ndarray) -> None:
    """That a run starts with these vectors, ``[vocabulary, dim]``, at a standard deviation of 0.5."""
    ids = np.flatnonzero(learned.any(axis=1))
    assert start.ids.tolist() == ids.tolist()
    np.testing.assert_allclose(start.embedding, learned[ids] * (0.5 / learned[ids].std()), rtol=1e-5)


def test_vectors_are_learned_from_what_a_run_may_see(tmp_path: Path) -> None:
    """From train and unlabelled, not from validation, test and a fold that is held out; the run records them."""
    write_dataset(tmp_path / "data", {"train": 60, "unlabelled": 40, "validation": 20, "test": 20})
    vectors = start(tmp_path / "data", "own")["vectors"]
    learned = learn_from(tmp_path / "data", *(split_of(tmp_path / "data", name) for name in ("train", "unlabelled")))
    check_scaled(vectors, learned)
    assert vectors.facts["sha256"] == hashlib.sha256(learned).hexdigest()
    assert (vectors.facts["source"], vectors.facts["words"]) == ("own texts", int(learned[2:].any(axis=1).sum()))
    root = tmp_path / "folds"
    write_dataset(root, {"train": 90, "validation": 30}, widths=(8, 16, 32, 64))
    view = hold_out(assign_folds(root, 3), 1, root)
    for task in ("classifier", "language_model"):
        run = config(root, "own", fold=1, task=task)
        check_scaled(begin(run, check_data(run, 1), World())["vectors"], learn_from(root, Split(root, view, "train")))


DIM = 6
WORDS = [",", "the", "naïve", "film", "Great", "日本", "don't", "1999"]
VALUES = np.round(np.random.default_rng(0).normal(size=(len(WORDS), DIM)), 4).astype(np.float32)


def vocabulary(*words: str) -> Vocabulary:
    tokens = ["<pad>", "<unk>", *words]
    return Vocabulary(pa.array(tokens, pa.large_string()), np.ones(len(tokens), np.int64))


def lines(separator: str = " ", end: str = "\n") -> str:
    rows = VALUES.round(4).astype(float).tolist()
    return "".join(separator.join([word, *map(repr, row)]) + end for word, row in zip(WORDS, rows, strict=True))


FILES = {
    "glove.txt": lines().encode(),
    "tabs.txt.gz": gzip.compress(lines(separator="\t").encode()),
    "word2vec.txt": f"{len(WORDS)} {DIM}\n{lines()}".encode(),
    "cc.en.6.vec": f"{len(WORDS)} {DIM}\n{lines(end=' ' + chr(10))}\n\n".encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    start_values = read_start(path, vocabulary("film", "1999", "x", "naïve", "absent", "y"), DIM)
    expected_facts = {"file_words": len(WORDS), "words": 3, "tokens": 0.375}
    expected_facts["sha256"] = hashlib.sha256(FILES[name]).hexdigest()
    assert start_values.facts.items() >= expected_facts.items()
    assert start_values.ids.tolist() == [2, 3, 5]
    np.testing.assert_array_equal(start_values.embedding, VALUES[[*map(WORDS.index, ("film", "1999", "naïve"))]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"film 1 2\n\nword 1 x\n", "line 3 is no word with 2 numbers: 'word 1 x'"),
        (b"3 2\nfilm 1 2\nword 1 2\n", "ends after word 2 of the 3 that its first line promises: cut short"),
        (
            b"2 2\nfilm " + struct.pack("<ff", 1, 2) + b"word " + struct.pack("<ff", 3, 4),
            "line 2 .*saved with binary=F",
        ),
        (b"\xba\x16\x4f\x2f\x0c\n", "of fastText the .vec"),
        (gzip.compress(b"film 1 2\nword 3 4\n", mtime=0)[:-9], "cut short .*; fetch it again"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_start(path, vocabulary("film", "word"), 2)
    assert str(path) in str(caught.value)


def config(data: Path, source: str, **more: object) -> RunConfig:
    model = ModelConfig(embedding_dim=DIM, embedding_std=0.5, hidden_size=4)
    base = RunConfig(data=str(data), run=str(data.parent / "run"), model=model, init=InitConfig(vectors=source))
    return dataclasses.replace(base, **more)


def start(data: Path, source: str, **more: object) -> dict[str, Start]:
    return begin(config(data, source, **more), read_manifest(data), World())


def test_what_cannot_be_started_from_is_refused_before_any_process_starts(data: Path, tmp_path: Path) -> None:
    preflight.check_start(config(data, "own"))
    (tmp_path / "small.txt").write_text("film 1 2 3 4\n")
    with pytest.raises(ConfigError, match=r"vectors of 4 numbers, .* is 6; set model\.embedding_dim to 4"):
        preflight.check_start(config(data, str(tmp_path / "small.txt")))
    (tmp_path / "glove.txt").write_text("日本 1 2 3 4 5 6\n映画 1 2 3 4 5 6\n")
    with pytest.raises(DataError, match=r"glove\.txt: none of its 2 words is in the dataset's vocabulary"):
        start(data, str(tmp_path / "glove.txt"))
