# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: mapped values equal the written ones, errors name what is wrong in a manifest or a shard;
where shards are placed, and that changes during a job are detected.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harness.config import RunConfig
from harness.data.loader import open_data
from harness.data.run_rows import check_data
from padless.core import atomic
from padless.core.errors import DataError
from preprocessing.dataset.index import INDEX, write_index
from preprocessing.dataset.shards import (
    MANIFEST,
    Block,
    Manifest,
    read_manifest,
    write_shard,
)
from tests.fuzz.test_hostile_datasets import manifest_bytes
from tests.helpers.commands import read_json
from tests.helpers.datasets import copy_of, shared_dataset

SMALL = {"longest": 16, "widths": (8, 16), "block_rows": 32}
source_data = shared_dataset({"train": 60, "validation": 20, "test": 20, "unlabelled": 20}, **SMALL)


root = copy_of("source_data")
"""A copy to be changed."""


@pytest.fixture
def manifest(source_data: Path) -> Manifest:
    return read_manifest(source_data)


def test_a_shard_is_flushed_once_and_its_name_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = list[str]()
    monkeypatch.setattr(atomic, "fsync", lambda path: flushed.append(Path(path).name.split(atomic.TEMPORARY_MARK)[0]))
    block = Block(np.ones((8, 1), np.uint16), *np.ones((3, 8), int))
    infos = [write_shard(tmp_path, "train", number, block) for number in (1, 0)]
    names = [Path(info.path).name for info in infos]
    assert flushed == names
    write_index(tmp_path, infos)
    assert flushed == [*names, INDEX, tmp_path.name, "train"]


def test_a_foreign_or_newer_manifest_is_named(root: Path) -> None:
    content = read_json(root / MANIFEST)
    for change, expected in (
        ({"format_version": 99}, "not of format version 1, which this padless reads"),
        ({"format": "other"}, "not a padless dataset manifest"),
    ):
        atomic.write_json(root / MANIFEST, {**content, **change})
        with pytest.raises(DataError, match=expected):
            read_manifest(root)


def test_a_text_pipeline_that_its_hash_does_not_know_trains_nothing(root: Path) -> None:
    content = read_json(root / MANIFEST)
    content["text"]["spec"]["lowercase"] = not content["text"]["spec"]["lowercase"]
    (root / MANIFEST).write_bytes(manifest_bytes(content))
    with pytest.raises(DataError, match=r"dataset\.json: its text does not match its text_hash"):
        check_data(RunConfig(data=str(root)), 1)


def test_a_shard_that_is_cut_while_it_is_mapped_is_named(root: Path, manifest: Manifest) -> None:
    opened = open_data(str(root), manifest, ["test"])
    opened.check()
    os.truncate(opened.splits["test"].shards[0].path, 100)
    with pytest.raises(DataError, match="truncated or changed"):
        opened.check()
