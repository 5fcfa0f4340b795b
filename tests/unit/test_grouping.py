# SPDX-License-Identifier: Apache-2.0
"""Splits by group: no group in two splits, equal texts join groups, labels stratified within the largest group."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import NO_SPLIT, SPLITS
from preprocessing.base.split_names import TEST_NUMBER as TEST
from preprocessing.base.split_names import TRAIN_NUMBER as TRAIN
from preprocessing.base.split_names import VALIDATION_NUMBER as VALIDATION
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.dataset.statistics import groups_in_words
from preprocessing.job.decisions import decide
from preprocessing.job.grouping import assign, assign_groups, components, off_shares
from preprocessing.job.rows import Rows

pytestmark = pytest.mark.thorough

SIZES = st.lists(st.integers(1, 25), min_size=6, max_size=60)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.25])


def corpus(sizes: list[int], labels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(group, label)`` of groups of these sizes; each has a taste of its own for labels."""
    random = np.random.default_rng(seed)
    hashes = random.choice(1 << 62, len(sizes), replace=False).astype(np.uint64) + np.uint64(1)
    taste = random.dirichlet(np.ones(labels), len(sizes))
    label = np.concatenate([random.choice(labels, size, p=p) for size, p in zip(sizes, taste, strict=True)])
    return np.repeat(hashes, sizes), label


@settings(deadline=None)
@given(SIZES, st.integers(1, 4), st.integers(0, 9), FRACTIONS, FRACTIONS)
def test_groups_stay_whole_and_shares_are_met_within_the_largest(
    sizes: list[int], labels: int, seed: int, validation: float, test: float
) -> None:
    group, label = corpus(sizes, labels, seed)
    row = np.arange(1, len(group) + 1)
    shares = {"validation": validation, "test": test}
    split = assign_groups(group, label, row, seed=seed, **shares)
    for value in np.unique(group):
        assert len(set(split[group == value].tolist())) == 1
    for number, fraction in ((VALIDATION, validation), (TEST, test)):
        assert fraction > 0 or not (split == number).any()
    assert abs(off_shares(split, label, **shares)).max() <= max(sizes)
    shuffled = np.random.default_rng(seed).permutation(len(group))
    again = assign_groups(group[shuffled], label[shuffled], row[shuffled], seed=seed, **shares)
    assert (again == split[shuffled]).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 25), min_size=40, max_size=80), st.integers(0, 9))
def test_with_many_groups_shares_are_met_almost_to_the_row(sizes: list[int], seed: int) -> None:
    group, label = corpus(sizes, 2, seed)
    split = assign_groups(group, label, np.arange(len(group)), seed=seed, validation=0.2, test=0.2)
    assert abs(off_shares(split, label, 0.2, 0.2)).max() <= 5


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=7), st.integers(0, 20))
def test_few_groups_are_packed_nearly_as_well_as_can_be(sizes: list[int], seed: int) -> None:
    group, label = corpus(sizes, 2, seed)
    hashes, node = np.unique(group, return_inverse=True)
    kept_back = {int(hashes[node[label == value]][0]) for value in range(2) if len(set(node[label == value])) == 1}

    def miss(split: np.ndarray) -> int:
        return int((off_shares(split, label, 0.3, 0.0).astype(int) ** 2).sum())

    best = min(
        miss(np.array(choice)[node])
        for choice in itertools.product((TRAIN, VALIDATION), repeat=len(hashes))
        if not any(choice[place] and int(hashes[place]) in kept_back for place in range(len(hashes)))
    )
    found = miss(assign_groups(group, label, np.arange(len(group)), seed=seed, validation=0.3, test=0.0))
    assert found <= best + max(sizes) ** 2


@given(st.integers(3, 200), st.integers(0, 5))
def test_groups_of_one_row_are_divided_as_rows_are(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    group, label = random.permutation(rows).astype(np.uint64) + np.uint64(1), random.integers(0, 2, rows)
    shares: dict[str, Any] = {"seed": seed, "validation": 0.1, "test": 0.2}
    ours, theirs = (cut(group, label, np.arange(rows), **shares) for cut in (assign_groups, assign))
    assert (off_shares(ours, label, 0.1, 0.2) == off_shares(theirs, label, 0.1, 0.2)).all()


def test_a_label_in_one_group_is_learned() -> None:
    group = np.repeat(np.arange(1, 21, dtype=np.uint64), 10)
    label = np.where(group == 7, 2, np.arange(200) % 2)
    split = assign_groups(group, label, np.arange(200), seed=0, validation=0.2, test=0.2)
    assert set(split[label == 2].tolist()) == {TRAIN}


def test_equal_texts_join_groups_and_empty_ones_do_not() -> None:
    text = np.array([1, 2, 2, 3, 3, 4, 5, 5, 0, 0], np.uint64)
    group = np.array([10, 10, 20, 20, 30, 40, 0, 0, 50, 60], np.uint64)
    found = components(group, text, text > 0)
    assert found.tolist() == [10, 10, 10, 10, 10, 40, 5, 5, 50, 60]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60))
def test_components_are_those_of_a_graph(rows: list[tuple[int, int]]) -> None:
    group, text = (np.array(values, np.uint64) for values in zip(*rows, strict=True))
    found = components(group, text + np.uint64(100), np.ones(len(rows), bool))
    expected = group.copy()
    for _ in rows:
        for column in (group, text):
            for value in column:
                expected[column == value] = expected[column == value].min()
    assert found.tolist() == expected.tolist()


def rows_of(group: list[int], named: list[int], text: list[int] | None = None) -> Rows:
    number = len(group)
    return Rows(
        row=np.arange(1, number + 1),
        label=np.arange(number, dtype=np.int32) % 2,
        named=np.array(named, np.int8),
        missing=np.zeros(number, np.uint8),
        num_tokens=np.full(number, 5),
        text_hash=np.array(text or range(1000, 1000 + number), np.uint64),
        exact_hash=np.arange(number, dtype=np.uint64),
        group=np.array(group, np.uint64),
    )


def decided(rows: Rows, **splits: Any) -> tuple[list[int], dict[str, Any]]:
    config = SplitConfig(group_column="film", **{"validation": 0.0, "test": 0.0, **splits})
    decision, report = decide(rows, QualityConfig(), config, 0, str, lambda group: f"film {group}")
    return decision.tolist(), report["groups"]


def test_what_the_source_shares_is_counted_and_left_as_it_is() -> None:
    named = [TRAIN, TEST, TRAIN, TRAIN, TEST, TEST, TRAIN, VALIDATION]
    decision, groups = decided(rows_of([1, 1, 2, 2, 2, 3, 0, 0], named))
    assert decision == named
    assert (groups["groups"], groups["rows_without"], groups["largest"]) == (3, 2, {"name": "film 2", "rows": 3})
    expected = {"groups": 2, "rows": {"train": 3, "test": 2}, "names": ["film 1", "film 2"]}
    assert groups["shared"] == [expected]
    shared = "share 2 groups of film ('film 1', 'film 2'): 3 rows in train and 2 rows in test"
    assert groups_in_words(groups)[1] == f"the source's own train and test {shared}"
    _, groups = decided(rows_of([1, 1, 2, 2], [TRAIN, TRAIN, TEST, TEST]))
    assert groups_in_words(groups)[1] == "the source's own train and test share no group of film"


def test_rows_without_a_split_follow_their_group() -> None:
    named = [TEST, NO_SPLIT, NO_SPLIT, TRAIN, TRAIN, TEST, *[NO_SPLIT] * 40]
    group = [1, 1, 2, 2, 3, 3, *np.repeat(range(10, 20), 4).tolist()]
    decision, groups = decided(rows_of(group, named), validation=0.25)
    assert decision[:2] == [TEST, TEST]
    assert decision[4:6] == [TRAIN, TEST]
    assert decision[2] == decision[3]
    assert groups["followed"] == 1
    assert groups["cut"]["validation"]["rows"] == decision.count(VALIDATION) > 0
    for value in range(10, 20):
        assert len({split for split, its in zip(decision, group, strict=True) if its == value}) == 1


def test_equal_texts_in_two_groups_keep_them_together() -> None:
    group = np.repeat(range(1, 41), 5).tolist()
    text = list(range(1000, 1200))
    text[3], text[8], text[9], text[14] = 1, 1, 2, 2
    decision, groups = decided(rows_of(group, [NO_SPLIT] * 200, text), validation=0.2, test=0.2)
    assert len(set(decision[:15])) == 1
    assert groups["joined"] == 2
    assert [decision.count(number) for number in range(len(SPLITS))] == [120, 40, 40]


def test_groups_of_no_use_are_refused() -> None:
    unnamed = [NO_SPLIT] * 20
    with pytest.raises(DataError, match=r"'film' has another value in each of the 20 rows"):
        decided(rows_of(list(range(1, 21)), unnamed), validation=0.1)
    with pytest.raises(DataError, match=r"'film' is empty in every row"):
        decided(rows_of([0] * 20, unnamed), validation=0.1)
    with pytest.raises(DataError, match=r"a split other than train for all groups, so none is left to cut from"):
        decided(rows_of([1, 1, 2, 2], [TRAIN, TEST, TRAIN, TEST]), validation=0.1)
    with pytest.raises(DataError, match=r"into the split validation: the largest of 2, 'film 2', holds 14 of 20 rows"):
        decided(rows_of([1] * 6 + [2] * 14, unnamed), validation=0.1)
