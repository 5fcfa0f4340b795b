# SPDX-License-Identifier: Apache-2.0
"""Folds: groups and equal texts whole, labels spread evenly, the rest of a dataset as it is without them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import TEST, TRAIN, UNLABELLED, VALIDATION
from preprocessing.config import SplitConfig
from preprocessing.dataset.frames import Dataset
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.dataset.verification import fold_problems, verify
from preprocessing.job.folding import assign_folds, filled
from preprocessing.job.splits import fold_rows
from tests.corpora import Command, contents, reviews, write_csv
from tests.unit.test_splits import rows_of

pytestmark = pytest.mark.thorough

ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2)), min_size=1, max_size=150)


@given(ROWS, st.integers(2, 7), st.integers(0, 3))
def test_a_group_is_never_cut_and_the_order_of_rows_does_not_matter(
    rows: list[tuple[int, int]], folds: int, seed: int
) -> None:
    group, label = np.array([one for one, _ in rows], np.uint64), np.array([one for _, one in rows])
    row = np.arange(1, len(rows) + 1)
    fold = assign_folds(group, label, row, folds=folds, seed=seed)
    assert ((fold >= 0) & (fold < folds)).all()
    for value in np.unique(group):
        assert len(set(fold[group == value].tolist())) == 1
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    again = assign_folds(group[shuffled], label[shuffled], row[shuffled], folds=folds, seed=seed)
    assert (again == fold[shuffled]).all()


@given(st.integers(10, 300), st.integers(10, 300), st.integers(2, 9))
def test_single_texts_are_dealt_evenly_label_by_label(few: int, many: int, folds: int) -> None:
    label = np.array([0] * few + [1] * many)
    texts = np.random.default_rng(few).permutation(few + many).astype(np.uint64)
    fold = assign_folds(texts, label, np.arange(few + many), folds=folds, seed=0)
    for counts in (np.bincount(fold[label == value], minlength=folds) for value in (0, 1)):
        assert counts.max() - counts.min() <= 1
    total = np.bincount(fold, minlength=folds)
    assert total.max() - total.min() <= 1


def test_groups_of_many_sizes_are_spread_evenly() -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(200), random.integers(1, 40, 200)).astype(np.uint64)
    label = random.integers(0, 3, len(group))
    fold = assign_folds(group, label, np.arange(len(group)), folds=5, seed=0)
    for value in range(3):
        counts = np.bincount(fold[label == value], minlength=5)
        assert counts.max() - counts.min() < 0.03 * counts.mean()


def test_what_is_left_goes_to_the_smallest_folds() -> None:
    assert filled(np.array([5, 0, 2]), 6, np.array([9, 9, 9])).tolist() == [0, 4, 2]
    assert filled(np.array([0, 0, 0]), 4, np.array([9, 9, 7])).tolist() == [1, 1, 2]
    assert filled(np.array([1, 1]), 0, np.array([1, 1])).tolist() == [0, 0]


def test_only_rows_of_training_and_validation_have_a_fold() -> None:
    decision = np.array([0, 1, 2, -1] * 10, np.int8)
    fold, found = fold_rows(rows_of(list(range(40)), [0, 0, 0, 0, 1, 1, 1, 1] * 5), decision, 2, 0, ["a", "b"], None)
    assert (fold >= 0).tolist() == [True, True, False, False] * 10
    assert found == {"rows": [10, 10], "labels": [[5, 5], [5, 5]], "kept_together": 20}


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        ([1, 1, 2, 2], [0, 1, 0, 1], "5 folds, but only 2 different texts outside of test; ask for fewer folds"),
        ([1, 1, 2, 3, 4, 5], [1, 1, 0, 0, 0, 0], "all 2 rows of the label 'b' fall into fold 0, so a training without"),
        ([1, 2, 3, 4, 5], [0, 0, 0, 1, 1], "has 1 rows of 1 label, and nothing can be measured on it"),
    ],
)
def test_folds_that_cannot_be_used_get_a_sentence(text: list[int], label: list[int], said: str) -> None:
    with pytest.raises(DataError, match=f"splits.folds: .*{said}"):
        fold_rows(rows_of(text, label), np.zeros(len(text), np.int8), 5, 0, ["a", "b"], None)


@pytest.mark.parametrize("folds", [1, -2, 101])
def test_one_fold_is_none(folds: int) -> None:
    with pytest.raises(ConfigError, match=f"splits.folds: {folds} .*0 for none, or from 2 to 100"):
        SplitConfig(folds=folds)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Reviews of twenty films, each text once."""
    rows = [(text, label, f"film {row % 20}") for row, (text, label) in enumerate(reviews(240))]
    random = np.random.default_rng(0)
    return write_csv(tmp_path / "c.csv", [rows[row] for row in random.permutation(240)], ("text", "label", "film"))


def folds_of(root: Path) -> dict[int, int]:
    """Row of the source -> its fold."""
    manifest = read_manifest(root)
    shards = [shard for name in (TRAIN, VALIDATION) for shard in Split(root, manifest, name).shards]
    return {int(row): int(shard.info.fold or 0) for shard in shards for block in shard.blocks for row in block.row}


@pytest.mark.parametrize("column", [None, "film"])
def test_a_dataset_with_folds_is_the_one_without_in_other_pieces(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path, column: str | None
) -> None:
    command = Command(capsys)
    keys = ["--executor.workers", 1, "--vocabulary.min_count", 1, "--text.max_tokens", 128, "--shards.rows", 100]
    keys += [] if column is None else ["--splits.group_column", column, "--splits.validation", 0.2]
    assert command("run", corpus, *keys, "--output", tmp_path / "plain") == 0
    assert command("run", corpus, *keys, "--splits.folds", 4, "--output", tmp_path / "cut") == 0
    assert "folds: 4 folds of " in command.err
    again = ("--source.part_mb", 0.004)
    assert command("run", corpus, *keys, *again, "--splits.folds", 4, "--output", tmp_path / "again") == 0
    assert contents(tmp_path / "again") == contents(tmp_path / "cut")
    plain, cut = read_manifest(tmp_path / "plain"), read_manifest(tmp_path / "cut")
    assert (plain.folds, cut.folds) == (0, 4)
    assert '"fold' not in (tmp_path / "plain" / "dataset.json").read_text()
    assert plain.vocabulary_hash == cut.vocabulary_hash
    for split in (TRAIN, VALIDATION, TEST):
        both = [
            sorted(int(row) for block in Split(tmp_path / name, manifest, split).blocks for row in block.row)
            for name, manifest in (("plain", plain), ("cut", cut))
        ]
        assert both[0] == both[1]
    found = folds_of(tmp_path / "cut")
    assert len(found) == cut.rows(TRAIN) + cut.rows(VALIDATION)
    assert set(found.values()) == {0, 1, 2, 3}
    if column is not None:
        films = {row: line.rsplit(",", 1)[1] for row, line in enumerate(corpus.read_text().splitlines())}
        assert len({(films[row], fold) for row, fold in found.items()}) == len({films[row] for row in found})
    frame = Dataset(tmp_path / "cut")[TRAIN]
    assert dict(zip(frame["row"], frame["fold"], strict=True)).items() <= found.items()
    assert "fold" not in Dataset(tmp_path / "cut")[TEST].columns
    assert command("check", tmp_path / "cut") == 0
    assert "rows in 4 folds" in command.out
    assert command("inspect", tmp_path / "cut") == 0
    assert "folds: 4 folds of " in command.out


def test_texts_without_labels_are_none_of_those_that_folds_measure(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    known = [(text,) for text, _ in reviews(240)[:50]] + [(f"another text {row}",) for row in range(10)]
    more = write_csv(tmp_path / "more.csv", known, ("text",))
    command = Command(capsys)
    keys = ["--executor.workers", 1, "--vocabulary.min_count", 1, "--source.unlabelled_path", more]
    assert command("run", corpus, *keys, "--splits.folds", 3, "--output", tmp_path / "cut") == 0
    manifest = read_manifest(tmp_path / "cut")
    assert manifest.rows(UNLABELLED) == 10
    assert [info.fold for info in manifest.splits[UNLABELLED]] == [None]
    assert verify(tmp_path / "cut") == []


def test_a_shard_that_lost_its_fold_is_a_problem(
    capsys: pytest.CaptureFixture[str], corpus: Path, tmp_path: Path
) -> None:
    assert Command(capsys)("run", corpus, "--executor.workers", 1, "--splits.folds", 3, "--output", tmp_path / "d") == 0
    manifest = read_manifest(tmp_path / "d")
    assert list(fold_problems(manifest)) == []
    first, *others = manifest.splits[TRAIN]
    lost = replace(manifest, splits={**manifest.splits, TRAIN: [replace(first, fold=None), *others]})
    said = list(fold_problems(lost))
    assert len(said) == 2
    assert "gives it fold None" in said[0]
    assert "the manifest's statistics say" in said[1]
    stored = json.loads((tmp_path / "d" / "dataset.json").read_text())["splits"]
    assert all("fold" not in shard for shard in stored[TEST])
    assert all("fold" in shard for shard in stored[TRAIN] + stored[VALIDATION])
