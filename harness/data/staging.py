# SPDX-License-Identifier: Apache-2.0
"""Staging: shards are copied from a network file system to a local one, once per node, for all its processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from io import RawIOBase
from pathlib import Path

from harness.data.files import read_chunks
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.machine import locked
from preprocessing.base.storage import storing
from preprocessing.dataset.shards import Manifest, ShardInfo

LOCK = ".lock"


def staged_path(stage: str | Path, manifest: Manifest) -> Path:
    """Where a dataset is staged below a stage directory. Other contents and other users have other names."""
    return Path(stage) / f"padless-{os.getuid()}" / manifest.fingerprint[:32]


def stage(
    data: str | Path,
    manifest: Manifest,
    directory: str | Path,
    *,
    timeout_s: float,
    splits: Collection[str] | None = None,
    open_file: Callable[[Path], RawIOBase] | None = None,
) -> Path:
    """Copy every shard of ``splits`` (of all unless given) that is not there yet; return the directory they lie in.

    Several processes may call this at once: one copies, and the others wait for its lock, at most ``timeout_s``
    seconds. A copy gets its name once its sha256 is that of the manifest (law 2). A copy that is already there is used
    if its sha256 is still right. Raises ``StorageError`` where nothing can be written, ``ConfigError`` if the wait
    was too long or somebody else can write there, ``DataError`` if a shard's bytes are not those of the manifest.
    """
    target = staged_path(directory, manifest)
    refusal = ConfigError(
        f"stage_dir: waited {timeout_s:.0f} s for {target / LOCK}, held by another process that stages; "
        f"raise timeout_s, or stop that process"
    )
    with storing(target, otherwise="name a local directory with room for the shards in stage_dir"):
        private_folder(target.parent)
        target.mkdir(exist_ok=True)
        with locked(target / LOCK, timeout_s, refusal):
            for name in manifest.splits if splits is None else splits:
                for info in manifest.splits[name]:
                    if not is_whole(target / info.path, info):
                        copy(Path(data, info.path), target / info.path, info, open_file)
    return target


def private_folder(path: Path) -> None:
    """Make a folder in which this user alone can write. Raises ``OSError``.

    Its name is known to all: whoever made it before, or a link in its place, could lead the copies over other files.
    Raises ``ConfigError`` for what is no folder, or one that others can write to or own.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        what = "is no folder"
    elif found.st_uid != os.getuid():
        what = f"belongs to user {found.st_uid}"
    elif found.st_mode & 0o022:
        what = "can be written by others"
    else:
        path.chmod(0o700)
        return
    raise ConfigError(f"stage_dir: {path} {what}, so shards are not copied there; remove it, or name another directory")


def is_whole(path: Path, info: ShardInfo) -> bool:
    """Whether a staged copy is the manifest's shard, byte for byte."""
    return path.is_file() and path.stat().st_size == info.bytes and atomic.sha256_file(path) == info.sha256


def copy(source: Path, target: Path, info: ShardInfo, open_file: Callable[[Path], RawIOBase] | None = None) -> None:
    """Copy one shard. It gets its final name only when whole and verified. Raises ``DataError``, ``OSError``."""
    digest = hashlib.sha256()
    with atomic.replacing(target) as temporary:
        with open(temporary, "wb") as sink:
            for chunk in read_chunks(source, info.bytes, open_file):
                digest.update(chunk)
                sink.write(chunk)
        if digest.hexdigest() != info.sha256:
            raise DataError(f"{source}: its sha256 is not the manifest's: bytes were changed; build the dataset again")
