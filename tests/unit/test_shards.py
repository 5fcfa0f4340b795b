# SPDX-License-Identifier: Apache-2.0
"""The on-disk format: what is written is what is mapped, and what breaks the format is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import (
    MANIFEST,
    Manifest,
    Shard,
    Split,
    histogram,
    id_dtype,
    read_manifest,
    write_manifest,
    write_shard,
)
from preprocessing.dataset.verification import content_problems, verify
from tests.datasets import write_dataset


def arrays(rows: int, width: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(rows)
    length = random.integers(1, width + 1, rows)
    ids = random.integers(2, 1000, (rows, width)).astype(dtype)
    ids[np.arange(width) >= length[:, None]] = 0
    return ids, length, random.integers(0, 2, rows), random.permutation(rows)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize("rows", [1, 63, 64, 200])
def test_a_shard_is_read_as_it_was_written(rows: int, dtype: type, tmp_path: Path) -> None:
    ids, length, label, row = arrays(rows, 16, dtype)
    info = write_shard(tmp_path, "train/00000-w0016.arrow", ids, length, label, row, block_rows=64)
    shard = Shard(tmp_path, info)
    assert [len(block.row) for block in shard.blocks] == [64] * (rows // 64) + ([rows % 64] if rows % 64 else [])
    for name, written in (("ids", ids), ("length", length), ("label", label), ("row", row)):
        read = np.concatenate([getattr(block, name) for block in shard.blocks])
        assert (read == written).all()
    assert shard.blocks[0].ids.dtype == dtype
    assert not shard.blocks[0].ids.flags.owndata
    assert (info.rows, info.tokens, info.bytes) == (rows, int(length.sum()), (tmp_path / info.path).stat().st_size)
    assert info.lengths == histogram(length)


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    infos = [write_shard(tmp_path / name, "a.arrow", *arrays(100, 8, np.uint16)) for name in ("one", "two")]
    assert infos[0] == infos[1]


def test_two_bytes_hold_65536_ids() -> None:
    assert (id_dtype(65536), id_dtype(65537)) == (np.dtype(np.uint16), np.dtype(np.int32))


def test_a_split_has_one_row_index(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 300, "test": 50})
    split = Split(tmp_path, read_manifest(tmp_path), "train")
    assert (len(split), split.max_width, int(split.block_starts[-1])) == (300, 64, 300)
    with pytest.raises(DataError, match="has no split 'dev'; it has test, train"):
        Split(tmp_path, read_manifest(tmp_path), "dev")


def test_the_fingerprint_covers_what_a_trainer_reads(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 60})
    manifest = read_manifest(tmp_path)
    assert replace(manifest, statistics={"a": 1}).fingerprint == manifest.fingerprint
    assert replace(manifest, labels=["x", "y"]).fingerprint != manifest.fingerprint


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format_version": 99}, "format version 99, this padless reads version 1"),
        ({"format": "other"}, "not a padless dataset manifest"),
        ({"labels": ["a", "b"]}, "edited or damaged"),
    ],
)
def test_a_foreign_newer_or_edited_manifest_is_named(change: dict[str, object], expected: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 60})
    content = json.loads((tmp_path / MANIFEST).read_bytes())
    atomic.write_json(tmp_path / MANIFEST, {**content, **change})
    with pytest.raises(DataError, match=expected):
        read_manifest(tmp_path)


def test_a_manifest_that_names_a_missing_shard(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 60})
    shard = tmp_path / read_manifest(tmp_path).splits["train"][0].path
    shard.unlink()
    assert verify(tmp_path) == [
        f"{shard}: the manifest names this shard, but it is missing; build the dataset again with "
        "`python -m preprocessing run`"
    ]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("length", 17, "length outside 1..16"),
        ("length", 0, "length outside 1..16"),
        ("label", 2, "label outside 0..1"),
        ("ids", 5000, "id beyond the vocabulary of 1000"),
    ],
)
def test_rows_that_break_the_format_are_named(column: str, value: int, expected: str, tmp_path: Path) -> None:
    columns = dict(zip(("ids", "length", "label", "row"), arrays(100, 16, np.uint16), strict=True))
    columns[column][3] = value
    info = write_shard(tmp_path, "a.arrow", **columns)
    manifest = Manifest(["a", "b"], {"train": [info]}, "uint16", 8192, 1000, "", {}, "")
    assert any(expected in problem for problem in content_problems(Shard(tmp_path, info), manifest))


def test_no_label_is_for_rows_of_one_split_alone(tmp_path: Path) -> None:
    ids, length, label, row = arrays(100, 16, np.uint16)
    none = write_shard(tmp_path, "none.arrow", ids, length, np.full_like(label, -1), row)
    some = write_shard(tmp_path, "some.arrow", ids, length, label, row)
    manifest = Manifest(["a", "b"], {"train": [some], "unlabelled": [none]}, "uint16", 8192, 1000, "", {}, "")
    found = {
        (info.path, split): [
            problem.partition(": ")[2] for problem in content_problems(Shard(tmp_path, info), manifest, split)
        ]
        for info in (none, some)
        for split in ("train", "unlabelled")
    }
    assert found == {
        ("some.arrow", "train"): [],
        ("none.arrow", "unlabelled"): [],
        ("none.arrow", "train"): ["record batch 0 holds a label outside 0..1"],
        ("some.arrow", "unlabelled"): ["record batch 0 holds a label outside -1..-1"],
    }


def test_a_manifest_whose_counts_are_not_those_of_its_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 60})
    manifest = read_manifest(tmp_path)
    first, *rest = manifest.splits["train"]
    wrong = replace(first, labels={"0": first.rows})
    write_manifest(tmp_path, replace(manifest, splits={"train": [wrong, *rest]}))
    (problem,) = verify(tmp_path)
    assert problem.endswith("the manifest's labels are not those of its rows")
