# SPDX-License-Identifier: Apache-2.0
"""Where rows live: file systems, decisions with reasons, staging, reading whole files, and noticing changes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data import placement
from harness.data.placement import DataPlacement, Facts, FileWatch, OpenData, Residency, choose_residency, choose_stage
from harness.ranks.distributed import World
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest
from tests.datasets import write_dataset

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:25 / /tmp rw shared:5 - tmpfs tmpfs rw
41 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
42 22 0:41 / /scratch rw - lustre 10.0.0.1@tcp:/fs rw
43 42 0:42 / /scratch/local rw - xfs /dev/nvme0n1 rw
44 22 0:43 / /gcs\040bucket rw - fuse.gcsfuse bucket rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/data/imdb", "ext4", False),
        ("/tmp/x", "tmpfs", False),
        ("/home/me/data", "nfs4", True),
        ("/homework", "ext4", False),
        ("/scratch/a/b", "lustre", True),
        ("/scratch/local/a", "xfs", False),
        ("/gcs bucket/a", "fuse.gcsfuse", True),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str, network: bool) -> None:
    assert placement.filesystem(path, MOUNTS) == kind
    assert placement.is_network(kind) == network


def test_this_machine_has_a_mount_table() -> None:
    assert placement.filesystem("/proc/self") == "proc"


def facts(**changed: Any) -> Facts:
    values = {"kind": "ext4", "shard_bytes": 10**9, "token_bytes": 10**9, "free_memory": 64 * 10**9, **changed}
    return Facts(**values)


@pytest.mark.parametrize(
    ("wanted", "known", "value", "reason"),
    [
        ("auto", facts(), "none", "the dataset lies on ext4, which is local"),
        ("auto", facts(kind="nfs4", stage_free={"/tmp": 10**10}), "/tmp", "lies on nfs4; 1,000 MB fit here"),
        ("auto", facts(kind="nfs4", stage_free={"/a": 10**9, "/b": 10**10}), "/b", "1,000 MB fit here"),
        ("auto", facts(kind="nfs4", stage_free={"/a": 10**9}), "none", "no local directory has room"),
        ("none", facts(kind="nfs4", stage_free={"/tmp": 10**10}), "none", "asked for"),
        ("/ssd", facts(), "/ssd", "asked for"),
    ],
)
def test_whether_to_stage(wanted: str, known: Facts, value: str, reason: str) -> None:
    choice = choose_stage(wanted, known)
    assert choice.value == value
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("wanted", "known", "staged", "value", "reason"),
    [
        ("auto", facts(), False, "mapped", "1,000 MB on ext4, shared by all processes"),
        ("auto", facts(free_device=80 * 10**9), False, "device", "1,000 MB of tokens, 80,000 MB free on the device"),
        ("auto", facts(free_device=3 * 10**9), False, "mapped", "on ext4"),
        ("auto", facts(kind="nfs"), True, "mapped", "on a local copy"),
        ("auto", facts(kind="nfs"), False, "memory", "not staged from nfs"),
        ("auto", facts(kind="nfs", local_processes=64), False, "mapped", "on nfs"),
        ("memory", facts(), False, "memory", "asked for"),
    ],
)
def test_where_rows_live(wanted: Residency, known: Facts, staged: bool, value: str, reason: str) -> None:
    choice = choose_residency(wanted, known, staged)
    assert choice.value == value
    assert reason in choice.reason


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_dataset(root, {"train": 120, "validation": 20, "test": 20})
    return root


class Stutter(RawIOBase):
    """A file whose reads come up short: 7 bytes at a time, and nothing after ``limit``."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.file, self.left = open(path, "rb", buffering=0), limit  # noqa: SIM115

    def readinto(self, buffer: Any) -> int:
        count = min(7, len(buffer), 7 if self.left is None else self.left)
        self.left = None if self.left is None else self.left - count
        return self.file.readinto(memoryview(buffer)[:count])

    def close(self) -> None:
        self.file.close()


def test_short_reads_are_read_again(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    mapped = Split(dataset, manifest, "train")
    read = Split(dataset, manifest, "train", lambda path, info: placement.in_memory(path, info, Stutter))
    assert len(read) == len(mapped) == 120
    for ours, theirs in zip(read.blocks, mapped.blocks, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.row, theirs.row)


def test_a_file_that_ends_early_is_an_error(dataset: Path) -> None:
    info = read_manifest(dataset).splits["train"][0]
    path = dataset / info.path
    with pytest.raises(DataError, match=f"{path}: 100 bytes came, the manifest says {info.bytes}"):
        placement.in_memory(path, info, lambda path: Stutter(path, 100))


def test_memory_outlives_the_files(dataset: Path) -> None:
    split = Split(dataset, read_manifest(dataset), "train", placement.in_memory)
    total = sum(int(block.ids.sum()) for block in Split(dataset, read_manifest(dataset), "train").blocks)
    shutil.rmtree(dataset)
    assert sum(int(block.ids.sum()) for block in split.blocks) == total


def stage_in_a_process(data: str, directory: str, ready: Any, results: Any) -> None:
    ready.wait(30)
    results.put(str(placement.stage(data, read_manifest(data), directory, timeout_s=60)))


@pytest.mark.processes
def test_processes_of_a_node_share_one_copy(dataset: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(3), context.Queue()
    arguments = (str(dataset), str(tmp_path / "stage"), ready, results)
    processes = [context.Process(target=stage_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    roots = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    manifest = read_manifest(dataset)
    assert roots == {str(placement.staged_path(tmp_path / "stage", manifest))}
    copied = Split(Path(roots.pop()), manifest, "train")
    assert [shard.path.read_bytes() for shard in copied.shards] == [
        (dataset / info.path).read_bytes() for info in manifest.splits["train"]
    ]


def test_a_copy_is_used_again_and_a_damaged_one_replaced(dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(dataset)
    root = placement.stage(dataset, manifest, tmp_path / "stage", timeout_s=5)
    good, bad = (root / info.path for info in manifest.splits["train"][:2])
    kept = good.stat().st_ino
    content = bytearray(bad.read_bytes())
    content[-200] ^= 1
    bad.write_bytes(content)
    placement.stage(dataset, manifest, tmp_path / "stage", timeout_s=5)
    assert good.stat().st_ino == kept
    assert bad.read_bytes() == (dataset / bad.relative_to(root)).read_bytes()


def test_changed_bytes_are_not_staged(dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(dataset)
    path = dataset / manifest.splits["train"][0].path
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="its sha256 is not the manifest's"):
        placement.stage(dataset, manifest, tmp_path / "stage", timeout_s=5)
    root = placement.staged_path(tmp_path / "stage", manifest)
    assert [file.name for file in root.rglob("*.arrow*")] == []


def test_waiting_for_another_process_has_a_limit(dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(dataset)
    root = placement.staged_path(tmp_path, manifest)
    root.mkdir(parents=True)
    with open(root / placement.LOCK, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"stage_dir: waited 0 s for .*held by another process"):
            placement.stage(dataset, manifest, tmp_path, timeout_s=0.3)


def test_a_stage_directory_that_cannot_be_written(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"/file/padless-.*: cannot be written \(Not a directory\); name a local"):
        placement.stage(dataset, read_manifest(dataset), tmp_path / "file", timeout_s=5)


@pytest.mark.parametrize("place", ["link", "theirs", "open", "file"])
def test_shards_are_copied_into_a_folder_of_this_user_alone(
    dataset: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, stage = read_manifest(dataset), tmp_path / "stage"
    folder, victim = placement.staged_path(stage, manifest).parent, tmp_path / "victim"
    stage.mkdir()
    victim.mkdir()
    if place == "link":
        folder.symlink_to(victim)
    elif place == "file":
        folder.write_text("theirs")
    else:
        folder.mkdir(mode=0o755 if place == "theirs" else 0o700)
        folder.chmod(0o777 if place == "open" else 0o755)
    if place == "theirs":
        name = folder.name
        monkeypatch.setattr(placement, "staged_path", lambda *_: stage / name / "there")
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match=f"stage_dir: {folder} .*; remove it, or name another directory"):
        placement.stage(dataset, manifest, stage, timeout_s=5)
    assert list(victim.iterdir()) == []


def test_the_folder_of_staged_copies_is_read_by_this_user_alone(dataset: Path, tmp_path: Path) -> None:
    root = placement.stage(dataset, read_manifest(dataset), tmp_path / "stage", timeout_s=5)
    assert root.parent.stat().st_mode & 0o777 == 0o700


def open_data(dataset: Path, split: str, only: bool, **chosen: Any) -> OpenData:
    placement = DataPlacement(data=str(dataset), timeout_s=5, **chosen)
    opened = OpenData(placement, read_manifest(dataset), split, World(), torch.device("cpu"), only)
    opened.copy()
    opened.open()
    return opened


@pytest.mark.parametrize("only", [True, False])
def test_a_command_may_open_and_stage_one_split_alone(dataset: Path, tmp_path: Path, only: bool) -> None:
    manifest = read_manifest(dataset)
    opened = open_data(dataset, "test", only, stage_dir=str(tmp_path / "stage"), residency="device")
    names = ["test"] if only else ["train", "validation", "test"]
    assert sorted(opened.splits) == sorted(names)
    staged = {str(path.relative_to(opened.root)) for path in opened.root.rglob("*.arrow")}
    assert staged == {info.path for name in names for info in manifest.splits[name]}
    assert {file.path for file in opened.guard.files} == {opened.root / path for path in staged}
    assert opened.rows is not None
    assert len(opened.rows.starts) == len(opened.splits["test"]) == manifest.rows("test")
    opened.guard.check()
    os.truncate(opened.root / manifest.splits["test"][0].path, 100)
    with pytest.raises(DataError, match="truncated under it"):
        opened.guard.check()
    opened.guard.close()


def test_a_split_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(DataError, match=r"has no split 'dev'; it has test, train, validation$"):
        open_data(dataset, "dev", only=True)


@pytest.fixture
def guarded(dataset: Path) -> tuple[FileWatch, Path, Manifest]:
    manifest = read_manifest(dataset)
    return (
        FileWatch(dataset, manifest, dataset, mapped=True),
        dataset / manifest.splits["train"][1].path,
        manifest,
    )


def test_nothing_changed(guarded: tuple[FileWatch, Path, Manifest]) -> None:
    guard, _, _ = guarded
    guard.check()
    before = guard.checked = guard.checked - 10
    guard.check_sizes()
    assert guard.checked > before
    guard.close()


def test_a_shard_that_is_removed(guarded: tuple[FileWatch, Path, Manifest]) -> None:
    guard, path, _ = guarded
    path.unlink()
    guard.checked -= 10
    guard.check_sizes()
    with pytest.raises(DataError, match=f"{path}: this shard was removed while the run used it"):
        guard.check()


def test_a_shard_that_is_replaced_by_one_of_the_same_size(guarded: tuple[FileWatch, Path, Manifest]) -> None:
    guard, path, _ = guarded
    shutil.copy(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)
    with pytest.raises(DataError, match=f"{path}: this shard was replaced while the run used it"):
        guard.check()


def test_a_shard_that_is_cut_short_is_noticed_between_steps(
    guarded: tuple[FileWatch, Path, Manifest],
) -> None:
    guard, path, _ = guarded
    os.truncate(path, 100)
    guard.check_sizes()
    guard.checked -= 10
    with pytest.raises(DataError, match=f"{path}: 100 bytes, .* when the run began: truncated"):
        guard.check_sizes()


def test_another_dataset_under_the_same_name(guarded: tuple[FileWatch, Path, Manifest], dataset: Path) -> None:
    guard, _, _ = guarded
    write_dataset(dataset.parent / "other", {"train": 121, "validation": 20, "test": 20})
    shutil.copy(dataset.parent / "other" / MANIFEST, dataset / MANIFEST)
    with pytest.raises(DataError, match=r"the dataset changed since the run began \(its fingerprint is another\)"):
        guard.check()
