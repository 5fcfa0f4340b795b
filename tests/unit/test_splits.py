# SPDX-License-Identifier: Apache-2.0
"""Splits: by seed, stratified, equal texts together; policies for suspect rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST_NUMBER as TEST
from preprocessing.base.split_names import TRAIN_NUMBER as TRAIN
from preprocessing.base.split_names import VALIDATION_NUMBER as VALIDATION
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.job.decisions import DROPPED, decide
from preprocessing.job.grouping import Groups, assign, fill
from preprocessing.job.rows import Rows


def rows_of(text: list[int], label: list[int] | None = None, named: list[int] | None = None, **more: Any) -> Rows:
    number = len(text)
    content: dict[str, Any] = {
        "row": np.arange(1, number + 1),
        "label": np.array(label if label is not None else [0] * number, np.int32),
        "named": np.array(named if named is not None else [-1] * number, np.int8),
        "missing": np.zeros(number, np.uint8),
        "num_tokens": np.full(number, 5),
        "text_hash": np.array(text, np.uint64),
        "exact_hash": np.arange(number, dtype=np.uint64),
    }
    return Rows(**{**content, **more})


def where(row: int) -> str:
    return f"x.csv: row {row}"


TEXTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=120)


@given(TEXTS, st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.4]))
def test_equal_texts_never_part_and_order_does_not_matter(
    texts: list[tuple[int, int]], seed: int, validation: float, test: float
) -> None:
    text = np.array([text for text, _ in texts], np.uint64)
    label = np.array([label for _, label in texts])
    row = np.arange(1, len(texts) + 1)
    split = assign(text, label, row, seed=seed, validation=validation, test=test)
    for value in np.unique(text):
        assert len(set(split[text == value].tolist())) == 1
    shuffled = np.random.default_rng(seed).permutation(len(texts))
    again = assign(text[shuffled], label[shuffled], row[shuffled], seed=seed, validation=validation, test=test)
    assert (again == split[shuffled]).all()
    if test == 0:
        assert not (split == TEST).any()


@given(st.integers(3, 300), st.integers(3, 300), st.integers(0, 3))
def test_every_label_is_divided_to_the_row_where_no_text_repeats(few: int, many: int, seed: int) -> None:
    label = np.array([0] * few + [1] * many)
    text = np.random.default_rng(seed).permutation(few + many).astype(np.uint64)
    split = assign(text, label, np.arange(few + many), seed=seed, validation=0.1, test=0.2)
    for value, total in ((0, few), (1, many)):
        inside = split[label == value]
        assert (inside == TEST).sum() == max(int(total * 0.2 + 0.5), 1)
        assert (inside == VALIDATION).sum() == max(int(total * 0.1 + 0.5), 1)


def test_another_seed_is_another_split() -> None:
    text, label, row = np.arange(1000, dtype=np.uint64), np.zeros(1000, int), np.arange(1000)
    first, second = (assign(text, label, row, seed=seed, validation=0.1, test=0.1) for seed in (0, 1))
    assert (first == TEST).sum() == (second == TEST).sum() == 100
    assert (first != second).sum() > 100


def test_large_groups_go_to_training() -> None:
    sizes = np.array([500, 1, 1, 2, 1, 3] + [1] * 92)
    split = fill(sizes, 0.05, 0.05)
    assert split[0] == TRAIN
    assert sizes[split == TEST].sum() == sizes[split == VALIDATION].sum() == 30


def test_groups() -> None:
    groups = Groups.of(np.array([7, 5, 7, 5, 9], np.uint64), np.array([3, 1, 2, 5, 4]))
    assert groups.sizes.tolist() == [2, 2, 1]
    assert groups.first(np.array([30, 10, 20, 50, 40])).tolist() == [10, 20, 40]
    assert groups.repeats().tolist() == [True, False, False, True, False]
    assert len(Groups.of(np.zeros(0, np.uint64), np.zeros(0, int))) == 0


def decided(rows: Rows, splits: SplitConfig | None = None, **policies: Any) -> tuple[list[int], dict[str, Any]]:
    decision, report = decide(rows, QualityConfig(**policies), splits or SplitConfig(validation=0, test=0), 0, where)
    return decision.tolist(), report


def test_what_the_source_names_is_kept_and_the_rest_is_cut() -> None:
    rows = rows_of(list(range(100)), [0, 1] * 50, named=[TEST] * 10 + [-1] * 90)
    decision, _ = decided(rows, SplitConfig(validation=0.2, test=0.3))
    assert decision[:10] == [TEST] * 10
    assert sorted(set(decision[10:])) == [TRAIN, VALIDATION]
    assert decision.count(VALIDATION) == 18


def test_leaks_are_dropped_from_the_split_nearer_to_training() -> None:
    rows = rows_of([1, 1, 1, 2, 2, 3], named=[TRAIN, VALIDATION, TEST, -1, VALIDATION, TRAIN])
    decision, report = decided(rows)
    assert decision == [DROPPED, DROPPED, TEST, DROPPED, VALIDATION, TRAIN]
    assert (report["leaks"], report["dropped"]["leaks"], report["duplicates"]["across_splits"]) == (3, 3, 0)
    decision, report = decided(rows, leaks="keep")
    assert decision == [TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TRAIN]
    assert report["duplicates"]["across_splits"] == 5
    with pytest.raises(DataError, match=r"^x.csv: row 1: another split that the source names holds an equal text"):
        decided(rows, leaks="error")


def test_duplicates() -> None:
    rows = rows_of([1, 2, 1, 1], exact_hash=np.array([8, 8, 8, 9], np.uint64))
    assert decided(rows, duplicates="drop")[0] == [TRAIN, TRAIN, DROPPED, DROPPED]
    decision, report = decided(rows)
    assert decision == [TRAIN] * 4
    assert report["duplicates"] == {"exact": 1, "normalised": 2, "across_splits": 0}


def test_contradictions() -> None:
    rows = rows_of([1, 2, 1, 3], [0, 1, 1, 0])
    assert decided(rows, contradictions="drop")[0] == [DROPPED, TRAIN, DROPPED, TRAIN]
    assert decided(rows)[1]["contradictions"] == 2
    with pytest.raises(DataError, match=r"^x.csv: row 1: an equal text has another label \(and 1 more\)"):
        decided(rows, contradictions="error")


def test_empty_texts_are_no_duplicates() -> None:
    rows = rows_of([0, 0, 5], [0, 1, 1], num_tokens=np.array([0, 0, 3]))
    decision, report = decided(rows, duplicates="drop", contradictions="drop")
    assert decision == [TRAIN] * 3
    assert (report["empty"], report["contradictions"]) == (2, 0)
    assert decided(rows, empty="drop")[0] == [DROPPED, DROPPED, TRAIN]
