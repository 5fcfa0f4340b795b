# SPDX-License-Identifier: Apache-2.0
"""Placement of shards: file systems, staging and its reason, detection of changes during a job."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.data import placement
from harness.data.placement import open_data, stage, stage_choice, staged_path
from harness.ranks.distributed import World
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import Manifest, read_manifest
from preprocessing.dataset.views import read_data
from tests.datasets import write_dataset

MOUNTS = {"/": "ext4", "/tmp": "tmpfs", "/home": "nfs4"}


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in MOUNTS.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: held)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", {"train": 120, "validation": 20, "test": 20})
    return tmp_path / "data"


@pytest.fixture
def manifest(dataset: Path) -> Manifest:
    return read_manifest(dataset)


def test_shards_are_staged_from_a_network_file_system_where_there_is_room(
    mounts: None, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(data: str, wanted: str = "auto") -> tuple[str, str]:
        choice = stage_choice(data, manifest, ["train"], wanted)
        return choice.value, choice.reason

    monkeypatch.setenv("SLURM_TMPDIR", "/home")  # a network file system too
    monkeypatch.setattr(placement.tempfile, "gettempdir", lambda: "/tmp")
    assert chosen("/data") == ("none", "the dataset lies on ext4, which is local")
    assert chosen("/home/me") == ("/tmp", "the dataset lies on nfs4; 0 MB fit here")
    assert chosen("/home/me", "/elsewhere") == ("/elsewhere", "asked for")
    assert chosen("/home/me", "none") == ("none", "asked for")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert chosen("/home/me")[1] == "the dataset lies on nfs4, but no local directory has room; name one: stage_dir"


def shards(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.arrow"))}


def test_staging_copies_what_is_missing_or_damaged(dataset: Path, manifest: Manifest, tmp_path: Path) -> None:
    names = ["train", "test"]
    target = stage(dataset, manifest, str(tmp_path / "stage"), names, 5)
    assert target == staged_path(tmp_path / "stage", manifest)
    wanted = {INDEX, *manifest.shards(dataset, names).paths()}
    whole = {path: content for path, content in shards(dataset).items() if path in wanted}
    assert shards(target) == whole
    kept, damaged = (target / path for path in sorted(wanted)[1:3])
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    stage(dataset, manifest, str(tmp_path / "stage"), names, 5)
    assert shards(target) == whole
    assert kept.stat().st_mtime_ns == before


def test_a_source_that_is_damaged_gets_no_name(dataset: Path, manifest: Manifest, tmp_path: Path) -> None:
    path = dataset / manifest.shards(dataset)[0].path
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(DataError, match=f"{path}: its sha256 is not the manifest's"):
        stage(dataset, manifest, str(tmp_path / "stage"), ["train"], 5)
    assert not (staged_path(tmp_path / "stage", manifest) / path.relative_to(dataset)).exists()


@pytest.mark.parametrize("place", ["open", "theirs"])
def test_a_folder_that_others_can_write_to_is_refused(
    dataset: Path, manifest: Manifest, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = staged_path(tmp_path / "stage", manifest).parent
    folder.parent.mkdir()
    if place == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.mkdir()
        monkeypatch.setattr(placement, "staged_path", lambda *_: folder / "there")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match=f"stage_dir: {folder} .*; remove it, or name another directory"):
        stage(dataset, manifest, str(tmp_path / "stage"), ["train"], 5)


def test_open_splits_are_staged_mapped_and_watched(dataset: Path, manifest: Manifest, tmp_path: Path) -> None:
    stage_dir = str(tmp_path / "stage")
    opened = open_data(str(dataset), manifest, ["test"], World(), timeout_s=5, stage_dir=stage_dir)
    assert set(opened.splits) == {"test"}
    assert set(shards(staged_path(stage_dir, manifest))) == {INDEX, *manifest.shards(dataset, ["test"]).paths()}
    assert len(opened.splits["test"]) == manifest.rows("test")
    path = opened.splits["test"].shards[0].path
    opened.check()
    os.truncate(path, 100)
    with pytest.raises(DataError, match="while the run used it, or cut short"):
        opened.check()


def test_each_dataset_of_a_mixture_is_staged_and_watched(dataset: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "second", {"train": 30, "validation": 9}, base=dataset, seed=6)
    stage_dir, mixture = str(tmp_path / "stage"), f"{dataset}:2,{tmp_path}/second:1"
    manifest, second = read_data(mixture), read_manifest(tmp_path / "second")
    opened = open_data(mixture, manifest, ["test", "train"], World(), timeout_s=5, stage_dir=stage_dir)
    assert {name: len(split) for name, split in opened.splits.items()} == {
        name: manifest.rows(name) for name in ("test", "train")
    }
    opened.splits["train"].check()
    opened.check()
    os.truncate(staged_path(stage_dir, second) / second.shards(tmp_path / "second", ["train"])[0].path, 100)
    with pytest.raises(DataError, match=f"{second.fingerprint[:32]}.*while the run used it, or cut short"):
        opened.check()
