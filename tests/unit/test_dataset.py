# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: mapped values equal the written ones; errors name what is wrong in a manifest or a shard."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data.checks import check_dataset
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.index import INDEX, write_index
from preprocessing.dataset.shards import (
    MANIFEST,
    VOCABULARY,
    Manifest,
    Shard,
    Split,
    histogram,
    read_manifest,
    write_manifest,
    write_shard,
)
from preprocessing.dataset.verification import check_words, verify
from tests.commands import read_json
from tests.datasets import copy_of, shared_dataset
from tests.fuzz.hostile_dataset import rehashed

whole = shared_dataset({"train": 60, "validation": 20, "unlabelled": 20}, longest=16, widths=(8, 16), block_rows=32)


root = copy_of("whole")
"""A copy to be changed."""


@pytest.fixture
def manifest(whole: Path) -> Manifest:
    return read_manifest(whole)


def arrays(rows: int, width: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows)
    length = random.integers(1, width + 1, rows)
    ids = random.integers(2, 1000, (rows, width)).astype(dtype)
    ids[np.arange(width) >= length[:, None]] = 0
    return ids, length, random.integers(0, 2, rows), random.permutation(rows)


@pytest.mark.parametrize(("rows", "dtype"), [(64, np.int32), (200, np.uint16)])
def test_a_shard_is_read_as_it_was_written(rows: int, dtype: type, tmp_path: Path) -> None:
    ids, length, label, row = arrays(rows, 16, dtype)
    info = write_shard(tmp_path, "train", 0, ids, length, label, row, block_rows=64)
    shard = Shard(tmp_path, info, block_rows=64)
    assert [len(block.row) for block in shard.blocks] == [64] * (rows // 64) + ([rows % 64] if rows % 64 else [])
    for name, written in (("ids", ids), ("length", length), ("label", label), ("row", row)):
        read = np.concatenate([getattr(block, name) for block in shard.blocks])
        assert (read == written).all()
    assert shard.blocks[0].ids.dtype == dtype
    assert not shard.blocks[0].ids.flags.owndata
    assert (info.path, info.rows, info.lengths) == ("train/00000-w0016.arrow", rows, histogram(length))
    assert info.bytes == (tmp_path / info.path).stat().st_size


def test_a_shard_is_flushed_once_and_its_name_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = list[str]()
    monkeypatch.setattr(atomic, "fsync", lambda path: flushed.append(Path(path).name.split(atomic.TEMPORARY_MARK)[0]))
    infos = [write_shard(tmp_path, "train", number, *arrays(8, 16, np.uint16)) for number in (1, 0)]
    names = [Path(info.path).name for info in infos]
    assert flushed == names
    (train,) = write_index(tmp_path, infos)[0]["train"]
    assert flushed == [*names, INDEX, tmp_path.name, "train"]
    assert (train.first, train.shards, train.rows, train.widths) == (0, 2, 16, {"16": 16})


def test_a_shard_that_changed_while_it_was_not_mapped_is_named(
    root: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Split, "most_open", 2)
    infos = [write_shard(root, "train", number, *arrays(8, 16, np.uint16)) for number in range(3)]
    splits, index = write_index(root, infos)
    split = Split(root, replace(manifest, splits=splits, index=index), "train")
    first, second, _ = split.shards
    for shard in (first, second):
        os.utime(shard.path, ns=(0, 0))
    assert split.shards[1] is second
    with pytest.raises(DataError, match=f"{first.path}: this shard was removed or replaced while the run used it"):
        split.blocks[0]
    with pytest.raises(DataError, match=f"{second.path}: this shard was removed or replaced while the run used it"):
        split.look()


def test_a_foreign_newer_or_edited_manifest_is_named(root: Path) -> None:
    content = read_json(root / MANIFEST)
    for change, expected in (
        ({"format_version": 99}, "format version 99, this padless reads version 1"),
        ({"format": "other"}, "not a padless dataset manifest"),
        ({"labels": ["a", "b"]}, "edited or damaged"),
    ):
        atomic.write_json(root / MANIFEST, {**content, **change})
        with pytest.raises(DataError, match=expected):
            read_manifest(root)


def test_a_text_pipeline_that_its_hash_does_not_know_trains_nothing(root: Path) -> None:
    content = read_json(root / MANIFEST)
    content["text"]["spec"]["lowercase"] = not content["text"]["spec"]["lowercase"]
    (root / MANIFEST).write_bytes(rehashed(content))
    with pytest.raises(DataError, match=r"dataset\.json: its text does not match its text_hash: edited or damaged"):
        check_dataset(root)


def test_files_are_there_in_their_size(root: Path, manifest: Manifest) -> None:
    first = manifest.shards(root)[0]
    for change, said in (
        ({"number": 9}, "the manifest names this shard, but it is missing"),
        ({"bytes": 10}, f"{first.path}: [0-9]+ bytes, the manifest says 10"),
    ):
        with pytest.raises(DataError, match=said):
            Shard(root, replace(first, **change))
    with pytest.raises(DataError, match=f"{VOCABULARY}: {manifest.vocabulary_size} words, the manifest says 9"):
        check_words(root, replace(manifest, vocabulary_size=9))


def test_a_manifest_whose_counts_are_not_those_of_its_rows(root: Path, manifest: Manifest) -> None:
    (train,) = manifest.splits["train"]
    wrong = replace(train, labels={"0": train.rows})
    write_manifest(root, replace(manifest, splits={**manifest.splits, "train": [wrong]}))
    (problem,) = verify(root)
    assert f"{MANIFEST}: its labels of train are not those of the rows" in problem
