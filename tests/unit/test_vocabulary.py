# SPDX-License-Identifier: Apache-2.0
"""Counting, merging, freezing and storing a vocabulary; and reusing that of a run, a bundle or a dataset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.rundir.bundle_files import INDEX, KIND, write_vocabulary
from harness.rundir.layout import BUNDLE
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, read_manifest
from preprocessing.job import encode
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import PAD, UNK, Counts, Vocabulary, freeze
from tests.corpora import Command, reviews, write_csv
from tests.datasets import split_of, texts_in, write_dataset

pytestmark = pytest.mark.thorough


def counts(**table: int) -> Counts:
    return Counts(pa.array(list(table), pa.large_string()), np.array(list(table.values()), np.int64))


def test_order_is_count_then_bytes_and_reserved_rows_come_first() -> None:
    vocabulary = freeze(counts(b=2, a=2, é=2, Z=2, c=9, rare=1), min_count=2, max_size=None)
    assert vocabulary.tokens.to_pylist() == ["<pad>", "<unk>", "c", "Z", "a", "b", "é"]
    assert vocabulary.counts.tolist() == [0, 1, 9, 2, 2, 2, 2]
    assert (PAD, UNK) == (0, 1)
    bounded = freeze(counts(a=3, b=2, c=1), min_count=1, max_size=4)
    assert (bounded.tokens.to_pylist(), bounded.counts.tolist()) == (["<pad>", "<unk>", "a", "b"], [0, 1, 3, 2])
    spelt = freeze(Counts(pa.array(["<pad>", "<unk>", "x"], pa.large_string()), np.array([5, 4, 3])), 1, None)
    assert (spelt.tokens.to_pylist(), spelt.counts.tolist()) == (["<pad>", "<unk>", "x"], [0, 9, 3])
    assert spelt.lookup(pa.array(["<pad>", "<unk>", "x", "y"])).tolist() == [1, 1, 2, 1]


def test_it_is_read_as_it_was_written_or_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.arrow"
    vocabulary = freeze(counts(**{f"token{number}": number + 1 for number in range(50)}, é=99), 1, None)
    vocabulary.write(path)
    again = Vocabulary.read(path)
    assert (again.hash, again.tokens, again.counts.tolist()) == (
        vocabulary.hash,
        vocabulary.tokens,
        vocabulary.counts.tolist(),
    )
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"token42", b"Token42", 1))
    with pytest.raises(DataError, match=r"vocabulary\.arrow is damaged"):
        Vocabulary.read(path)


# vocabulary.base

NEW = [*reviews(60, seed=3), *[(f"brandnew word{number % 3} number {number}", "positive") for number in range(20)]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run with a bundle of it."""
    root = tmp_path_factory.mktemp("base")
    write_dataset(root / "data", {"train": 60, "validation": 10}, widths=(64,))
    write_vocabulary(root / "run" / BUNDLE, root / "data")
    (root / "run" / BUNDLE / INDEX).write_text(index_of(root / "data"))
    return root


def index_of(data: Path, **more: object) -> str:
    manifest = read_manifest(data)
    content = {"format": KIND[0], "text": manifest.text, "vocabulary_hash": manifest.vocabulary_hash}
    return json.dumps({**content, **more})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "new.csv", NEW)


def build(command: Command, source: Path, output: Path, base: Path, *more: object) -> int:
    words = ("--source.path", source, "--output", output, "--executor.workers", 1, "--text.max_tokens", 64)
    return command("prepare", *words, "--vocabulary.base", base, *more)


def test_new_texts_have_the_ids_of_the_base(base: Path, source: Path, tmp_path: Path, command: Command) -> None:
    """Weights of the base can read them (law 1); the next test uses a dataset as the base."""
    assert (encode.BUNDLE, encode.BUNDLE_INDEX) == (BUNDLE, INDEX)
    assert build(command, source, tmp_path / "out", base / "run") == 0, command.err
    made, old = read_manifest(tmp_path / "out"), read_manifest(base / "data")
    assert (made.text_hash, made.vocabulary_hash) == (old.text_hash, old.vocabulary_hash)
    assert (tmp_path / "out" / VOCABULARY).read_bytes() == (base / "data" / VOCABULARY).read_bytes()
    encoder = Encoder(TextPipeline.from_json(old.text), Vocabulary.read(base / "data" / VOCABULARY))
    train = split_of(tmp_path / "out")
    found = np.concatenate(texts_in(train))
    assert found.tolist() == encoder([NEW[row - 1][0] for row in train.column("row")]).ids.tolist()
    assert f"the {old.vocabulary_size:,} ids of {base / 'run'} cover " in command.err


def test_another_base_under_the_same_name_makes_another_dataset(
    base: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(base / "data", tmp_path / "base")
    assert build(command, source, tmp_path / "out", tmp_path / "base") == 0
    shutil.rmtree(tmp_path / "base")
    write_dataset(tmp_path / "base", {"train": 50, "validation": 10}, widths=(64,), seed=4)
    assert build(command, source, tmp_path / "out", tmp_path / "base") == 2
    assert "holds a dataset of another configuration" in command.sentence
