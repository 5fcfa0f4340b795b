# SPDX-License-Identifier: Apache-2.0
"""The files of a dataset: on which file system they lie, how they are read whole, how a change is noticed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from io import RawIOBase
from pathlib import Path

import pyarrow as pa

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import open_regular
from preprocessing.dataset.shards import Manifest, ShardInfo, read_manifest

NETWORK = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "9p",
    "afs",
    "wekafs",
}
"""File system types whose pages come over a network. Anything in user space (fuse…) counts as one too."""
CHUNK_BYTES = 8 << 20
CHECK_EVERY_S = 1.0


def filesystem(path: str | Path, mounts: str | None = None) -> str:
    """Type of the file system that holds ``path``, as in ``ext4`` or ``nfs4``; ``unknown`` where nothing says.

    ``mounts`` is the text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "unknown"
    target = os.path.realpath(path)
    found, kind = "", "unknown"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if not rest:
            continue
        point = fields.split()[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, rest.split()[0]
    return kind


def is_network(kind: str) -> bool:
    """Whether pages of this kind of file system are fetched over a network."""
    return kind in NETWORK or kind.startswith("fuse")


def read_chunks(path: Path, size: int, open_file: Callable[[Path], RawIOBase] | None = None) -> Iterable[memoryview]:
    """The bytes of a file, in order. A short read is continued. A chunk is valid until the next one is asked for.

    ``open_file`` opens for unbuffered reading. Raises ``DataError`` unless the file has exactly ``size`` bytes.
    """
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(size, 1))))
    total = 0
    try:
        with (open_file or open_unbuffered)(path) as file:
            while count := file.readinto(buffer):
                total += count
                yield buffer[:count]
    except OSError as error:
        raise DataError(f"{path}: cannot be read after {total} of {size} bytes ({error.strerror}); try again") from None
    if total != size:
        raise DataError(f"{path}: {total} bytes came, the manifest says {size}: truncated, changed or a failing disk")


def open_unbuffered(path: Path) -> RawIOBase:
    """Open a regular file without a buffer, so that short reads are seen. Raises ``DataError`` for what is none."""
    open_regular(path).close()
    return open(path, "rb", buffering=0)


def in_memory(path: Path, info: ShardInfo, open_file: Callable[[Path], RawIOBase] | None = None) -> pa.BufferReader:
    """A shard's bytes, copied into this process's memory; a source for ``preprocessing.dataset.shards.Shard``.

    Raises ``DataError`` if the file is shorter or longer than the manifest says.
    """
    whole = bytearray(info.bytes)
    filled = 0
    for chunk in read_chunks(path, info.bytes, open_file):
        if filled + len(chunk) > info.bytes:
            raise DataError(f"{path}: more than the {info.bytes} bytes that the manifest says: changed")
        whole[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return pa.BufferReader(pa.py_buffer(whole))


class FileWatch:
    """Notices that a dataset changed under a running job.

    If a mapped file is cut short, the kernel ends a process that reads one of the lost pages (SIGBUS). So sizes are
    checked between steps, before rows are read.
    """

    def __init__(
        self, data: str | Path, manifest: Manifest, root: Path, mapped: bool, splits: Collection[str] | None = None
    ) -> None:
        """``data`` holds the manifest, ``root`` the shards that are open: ``data`` itself or a staged copy.

        ``splits`` are the open ones (all unless given). ``mapped`` says whether pages are read from the files during
        the run; otherwise only the manifest is watched.
        """
        self.data, self.fingerprint = Path(data), manifest.fingerprint
        names = manifest.splits if splits is None else splits
        infos = [info for name in names for info in manifest.splits[name]] if mapped else []
        self.files = [Watched(root / info.path, info.bytes) for info in infos]
        self.checked = time.monotonic()

    def check(self) -> None:
        """Between epochs: the manifest is still the one the run began with, and every mapped shard is in its place.

        Raises ``DataError``.
        """
        if read_manifest(self.data).fingerprint != self.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (its fingerprint is another); "
                f"put the old one back, or start a new run"
            )
        for file in self.files:
            file.check()

    def check_sizes(self) -> None:
        """Between steps, at most once a second: no mapped shard was cut short. Raises ``DataError``."""
        if time.monotonic() - self.checked >= CHECK_EVERY_S:
            self.checked = time.monotonic()
            for file in self.files:
                file.check_size()

    def close(self) -> None:
        """Let go of the files."""
        for file in self.files:
            os.close(file.descriptor)
        self.files = []


class Watched:
    """One mapped shard, held open."""

    def __init__(self, path: Path, size: int) -> None:
        """Remember which file ``path`` names. Raises ``DataError`` if it cannot be opened."""
        self.path, self.size = path, size
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror}); restore the dataset") from None
        self.identity = identity(os.fstat(self.descriptor))

    def check(self) -> None:
        """Raise ``DataError`` if the file was cut short, removed, replaced or written to."""
        self.check_size()
        try:
            now = identity(os.stat(self.path))
        except OSError:
            raise DataError(f"{self.path}: this shard was removed while the run used it; restore the dataset") from None
        if now != self.identity:
            raise DataError(f"{self.path}: this shard was replaced while the run used it; put the old one back")

    def check_size(self) -> None:
        """Raise ``DataError`` if the file's size is another than when the run began."""
        size = os.fstat(self.descriptor).st_size
        if size != self.size:
            raise DataError(
                f"{self.path}: {size} bytes, {self.size} when the run began: truncated under it; restore the dataset"
            )


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change: some of it differs when a file is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
