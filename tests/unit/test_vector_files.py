# SPDX-License-Identifier: Apache-2.0
"""Files of word vectors: every format gives the same rows, and errors name file and line."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.model.starts import from_file
from preprocessing.base.errors import DataError
from preprocessing.text.vocabulary import Vocabulary

DIM = 6
WORDS = [",", "the", "naïve", "film", "Great", "日本", "don't", "1999"]
VALUES = np.round(np.random.default_rng(0).normal(size=(len(WORDS), DIM)), 4).astype(np.float32)


def vocabulary(*words: str) -> Vocabulary:
    tokens = ["<pad>", "<unk>", *words]
    return Vocabulary(pa.array(tokens, pa.large_string()), np.ones(len(tokens), np.int64))


def lines(separator: str = " ", end: str = "\n") -> str:
    return "".join(
        word + "".join(separator + repr(float(value)) for value in row) + end
        for word, row in zip(WORDS, VALUES.round(4), strict=True)
    )


def binary(newlines: bool) -> bytes:
    rows = (word.encode() + b" " + row.tobytes() for word, row in zip(WORDS, VALUES, strict=True))
    return f"{len(WORDS)} {DIM}\n".encode() + (b"\n" if newlines else b"").join(rows) + (b"\n" if newlines else b"")


FILES = {
    "glove.txt": (lines().encode(), "GloVe"),
    "tabs.txt": (lines(separator="\t").encode(), "GloVe"),
    "word2vec.txt": (f"{len(WORDS)} {DIM}\n{lines()}".encode(), "word2vec text"),
    "cc.en.6.vec": (f"{len(WORDS)} {DIM}\n{lines(end=' ' + chr(10))}\n\n".encode(), "word2vec text"),
    "word2vec.bin": (binary(newlines=False), "word2vec binary"),
    "original": (binary(newlines=True), "word2vec binary"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    content, spelt = FILES[name]
    zipped = name in ("tabs.txt", "word2vec.bin")
    stored = gzip.compress(content) if zipped else content
    path = tmp_path / (f"{name}.gz" if zipped else name)
    path.write_bytes(stored)
    found = from_file(path, vocabulary("film", "1999", "x", "naïve", "absent", "y"), DIM)
    assert (found.facts["format"], found.facts["file_words"]) == (spelt, len(WORDS))
    assert (found.facts["words"], found.facts["tokens"]) == (3, 0.375)
    assert found.facts["sha256"] == hashlib.sha256(stored).hexdigest()
    assert np.flatnonzero(found.has).tolist() == [2, 3, 5]
    for word, number in (("film", 2), ("1999", 3), ("naïve", 5)):
        np.testing.assert_array_equal(found.vectors[number], VALUES[WORDS.index(word)])
    assert not found.vectors[[0, 1, 4, 6, 7]].any()


def test_words_with_spaces_and_words_that_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("film 5 6\nat name@domain.com 1 2\n. . . 3 4\nfilm 7 8\n")
    found = from_file(path, vocabulary("film", "."), 2)
    assert found.vectors.tolist() == [[0, 0], [0, 0], [5, 6], [0, 0]]
    assert found.facts["file_words"] == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"film 1 2\n\nword 1 x\n", "line 3 is no word with 2 numbers: 'word 1 x'"),
        (b"3 2\nfilm 1 2\nword 1 2\n", "ends after word 2 of the 3 that its first line promises: cut short"),
        (b"2 2\nfilm " + struct.pack("<ff", 1, 2) + b"word " + b"\0" * 5, "ends inside word 2 of the 2"),
        (b"text,label\nfilm,1\n", "line 1 is no word with numbers"),
        (b"\xba\x16\x4f\x2f\x0c\n", "of fastText the .vec"),
        (gzip.compress(b"film 1 2\nword 3 4\n", mtime=0)[:-9], "cut short inside its gzip stream"),
    ],
)
def test_what_is_broken_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        from_file(path, vocabulary("film", "word"), 2)
    assert str(path) in str(caught.value)
