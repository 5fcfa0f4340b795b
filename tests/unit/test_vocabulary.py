# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: one order for any order of counting, reserved rows, bytes that carry their own hash."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import PAD, UNK, Counts, Vocabulary, count, freeze


def counts(**table: int) -> Counts:
    return Counts(pa.array(list(table), pa.large_string()), np.array(list(table.values()), np.int64))


def test_order_is_count_then_bytes() -> None:
    vocabulary = freeze(counts(b=2, a=2, é=2, Z=2, c=9, rare=1), min_count=2, max_size=None)
    assert vocabulary.tokens.to_pylist() == ["<pad>", "<unk>", "c", "Z", "a", "b", "é"]
    assert vocabulary.counts.tolist() == [0, 1, 9, 2, 2, 2, 2]
    assert (PAD, UNK) == (0, 1)


def test_max_size_counts_the_reserved_rows() -> None:
    vocabulary = freeze(counts(a=3, b=2, c=1), min_count=1, max_size=4)
    assert vocabulary.tokens.to_pylist() == ["<pad>", "<unk>", "a", "b"]
    assert len(vocabulary) == 4
    assert vocabulary.counts.tolist() == [0, 1, 3, 2]


def test_a_corpus_that_spells_reserved_tokens_gets_unk_for_them() -> None:
    vocabulary = freeze(Counts(pa.array(["<pad>", "<unk>", "x"], pa.large_string()), np.array([5, 4, 3])), 1, None)
    assert vocabulary.tokens.to_pylist() == ["<pad>", "<unk>", "x"]
    assert vocabulary.counts.tolist() == [0, 9, 3]
    assert vocabulary.lookup(pa.array(["<pad>", "<unk>", "x", "y"])).tolist() == [1, 1, 2, 1]


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(1, 5), max_size=6), min_size=1, max_size=6))
def test_any_merge_order_gives_the_same_vocabulary(parts: list[dict[str, int]]) -> None:
    tables = [
        Counts(pa.array(list(part), pa.large_string()), np.array(list(part.values()), np.int64)) for part in parts
    ]
    total = {token: sum(part.get(token, 0) for part in parts) for part in parts for token in part}
    if not total:
        return
    forward = freeze(tables[0].merge(tables[1:]), 1, None)
    shuffled = random.Random(1).sample(tables, len(tables))
    assert freeze(shuffled[0].merge(shuffled[1:]), 1, None).hash == forward.hash
    expected = sorted(total.items(), key=lambda item: (-item[1], item[0].encode()))
    assert forward.tokens.to_pylist()[2:] == [token for token, _ in expected]
    assert forward.counts.tolist()[2:] == [number for _, number in expected]


def test_count_counts_tokens_of_texts() -> None:
    tokens = Tokenizer(TextPipeline(TextSpec(), (), {}))(["a b a", "", "b a"])
    table = count(tokens)
    assert dict(zip(table.types.to_pylist(), table.counts.tolist(), strict=True)) == {"a": 3, "b": 2}


@pytest.mark.parametrize("size", [3, 400])
def test_lookup_is_the_same_for_few_and_for_many_types(size: int) -> None:
    vocabulary = freeze(counts(**{f"w{number:03}": 1 for number in range(size)}), 1, None)
    for types in (["w001", "zz", "<pad>"], ["w001", "zz", "<pad>"] * 60):
        expected = [3, 1, 1] * (len(types) // 3)
        assert vocabulary.lookup(pa.array(types, pa.string())).tolist() == expected
        assert vocabulary.lookup(pa.array(types, pa.string())).dtype == np.int32


def test_hash_changes_with_a_token_and_with_a_count() -> None:
    hashes = {
        freeze(table, 1, None).hash for table in (counts(a=2, b=1), counts(a=2, c=1), counts(a=3, b=1), counts(ab=2))
    }
    assert len(hashes) == 4


def test_write_and_read(tmp_path: Path) -> None:
    vocabulary = freeze(counts(film=3, é=2), 1, None)
    vocabulary.write(tmp_path / "vocabulary.arrow")
    again = Vocabulary.read(tmp_path / "vocabulary.arrow")
    assert again.hash == vocabulary.hash
    assert again.tokens.to_pylist() == ["<pad>", "<unk>", "film", "é"]
    assert again.counts.tolist() == [0, 0, 3, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.arrow"]


def test_a_flipped_byte_or_a_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.arrow"
    freeze(counts(**{f"token{number}": number + 1 for number in range(50)}), 1, None).write(path)
    whole = path.read_bytes()
    at = whole.index(b"token42")
    path.write_bytes(whole[:at] + b"T" + whole[at + 1 :])
    with pytest.raises(DataError, match=r"vocabulary\.arrow is damaged"):
        Vocabulary.read(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"vocabulary\.arrow cannot be read"):
        Vocabulary.read(path)
    with pytest.raises(DataError, match=r"missing\.arrow is missing"):
        Vocabulary.read(tmp_path / "missing.arrow")


def test_bounds_that_leave_nothing() -> None:
    with pytest.raises(DataError, match="min_count = 9"):
        freeze(counts(a=1), 9, None)
    with pytest.raises(ConfigError, match=r"vocabulary\.min_count: 0 is out of range: expected at least 1"):
        freeze(counts(a=1), 0, None)
    with pytest.raises(ConfigError, match=r"vocabulary\.max_size: 2 is out of range: expected at least 3"):
        freeze(counts(a=1), 1, 2)
