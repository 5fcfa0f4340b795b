# SPDX-License-Identifier: Apache-2.0
"""Remote shards, read by record batches through files on this node, which all its processes share.

A dataset at a remote address has a folder in the cache with all its files but the shards (``remote.local``). A record
batch is read by one request for its bytes, checked against the index, and kept as a shard of its own::

    blocks/DATASET/2/train/00007-w0128.arrow      record batch 2 of that shard

**Limit.** Files are removed before a new one exceeds ``$PADLESS_CACHE_GB``, first those that the order of rows needs
last: the time of a file (mtime) is the step, counted over all epochs, at which it is read next. Nothing waits for
room: a removed file can still be read where it is mapped, and is read again from its address where it is not. So disk
usage may exceed the limit by the two windows of rows in use.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.corpus import addresses
from preprocessing.dataset.index import Lazy, ShardInfo
from preprocessing.dataset.shards import Manifest, Shard, Split, schema

CACHE_VARIABLE, LIMIT_VARIABLE = "PADLESS_CACHE", "PADLESS_CACHE_GB"
ADDRESS = "address"
"""The file in a dataset's folder that says where its shards lie."""
BLOCKS, ELSEWHERE = "blocks", f"name another folder by ${CACHE_VARIABLE}"
TIMEOUT_S = 3600.0
THREADS = 4
"""Requests of a process at once."""
SLACK = 32
"""One part of so many of the limit is freed beyond need, so that files are not listed for each new one."""
NEVER = (1 << 31) - 1
"""Time of a file that no order needs."""


def cache_folder() -> Path:
    """The cache of this node: ``$PADLESS_CACHE``, or ``padless`` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base, "padless"))


def limit_bytes() -> float:
    """Most bytes of remote shards in the cache. Raises ``ConfigError`` for another value than a number."""
    given = os.environ.get(LIMIT_VARIABLE) or "inf"
    with suppress(ValueError):
        if (limit := float(given) * 1e9) >= 0:
            return limit
    raise ConfigError(f"{LIMIT_VARIABLE}: {given!r} is no number of gigabytes, such as 200 or 0.5")


def split_of(root: str | Path, manifest: Manifest, name: str) -> Split:
    """Open a split of the dataset in a directory, or of a remote one by its folder in the cache."""
    return (RemoteSplit if Path(root, ADDRESS).exists() else Split)(root, manifest, name)


class RemoteSplit(Split):
    """A split whose shards lie elsewhere; each of its ``shards`` here is a record batch of one there."""

    is_remote, most_open = True, 2 * THREADS
    step = 0
    """Of all splits of this process: where its training reads, as a step counted over all epochs."""

    def __init__(self, root: str | Path, manifest: Manifest, name: str) -> None:
        """``root``: the dataset's folder in the cache."""
        super().__init__(root, manifest, name)
        self.address, self.limit, self.folder = Path(root, ADDRESS).read_text(), limit_bytes(), cache_folder() / BLOCKS
        self._first, self._blocks = self._blocks, np.arange(self._blocks[-1] + 1)
        self.shards = Lazy(len(self._blocks) - 1, self._shard)
        self._times = dict[int, int]()
        """Block -> the step from which a window reads it, of the latest window and the one after it."""

    def look(self) -> None:
        """Nothing to do: files in the cache are removed, but never changed."""

    def expect(self, blocks: Sequence[int], ahead: Sequence[int], steps: range, next_reads: np.ndarray | None) -> None:
        """Fetch the ``blocks`` of a window with these steps now, and those of the window ``ahead`` in threads.

        ``next_reads``: the step at which each block is read next, after the window; None for an evaluation.
        """
        if next_reads is None:  # while the training waits at its step
            steps = range(steps.start + RemoteSplit.step, steps.stop + RemoteSplit.step)
        else:
            RemoteSplit.step = steps.start
        before, self._times = self._times, dict.fromkeys(ahead, steps.stop) | dict.fromkeys(blocks, steps.start)
        for block in {*before, *self._times}:
            time = self._times.get(block, NEVER if next_reads is None else int(next_reads[block]))
            info, _, folder = self._file(block)
            with suppress(FileNotFoundError):
                os.utime(folder / info.path, (time, time))
        self.most_open = len(self._times) + THREADS
        for thread in self._fetching(blocks):
            thread.join()  # cannot hang: each request ends
        self._fetching(ahead)

    def _fetching(self, blocks: Sequence[int]) -> list[threading.Thread]:
        """Threads that fetch blocks, in another order than other processes; who reads a block meets its error."""
        todo = iter(np.roll(np.array(blocks, int), os.getpid() * (THREADS + 1)).tolist())

        def work() -> None:
            try:
                for block in todo:
                    self.shards[block]
            except UserError:
                list(todo)  # no other one is tried

        threads = [threading.Thread(target=work, name="padless-cache", daemon=True) for _ in blocks[:THREADS]]
        for thread in threads:
            thread.start()
        return threads

    def _file(self, block: int) -> tuple[ShardInfo, int, Path]:
        """A block's shard, its number there, and the folder of its file."""
        place = int(self._first.searchsorted(block, side="right")) - 1
        number = block - int(self._first[place])
        return self.index[place], number, self.folder / Path(self.root).name / str(number)

    def _mapped(self, place: int) -> Shard:
        """A block as a shard, from its file or its address. Raises ``DataError`` if it cannot be read or is another."""
        info, number, folder = self._file(place)
        where, (start, stop) = f"{self.address}/{info.path}", info.starts[number : number + 2]
        dtype, rows = self.manifest.id_dtype, int(self.block_starts[place + 1] - self.block_starts[place])
        head = arrays.MAGIC + schema(info.width, np.dtype(dtype)).serialize().to_pybytes()
        piece = replace(info, rows=rows, bytes=len(head) + stop - start)
        opened = partial(Shard, folder, piece, dtype, rows)
        with suppress(DataError):  # not there, or of a node that lost power
            return opened()
        busy = UserError(f"{where}: for an hour, another process has been fetching it, or removing files")
        with locked(self.folder / f"{info.hashes[number][:2]}.lock", TIMEOUT_S, busy):
            with suppress(DataError):  # another process has fetched it
                return opened()
            data = addresses.read_range(where, start, stop, info.hashes[number])
            with (
                atomic.storing(self.folder, otherwise=ELSEWHERE),
                locked(self.folder / "room.lock", TIMEOUT_S, busy),
            ):
                make_room(self.folder, piece.bytes, self.limit, RemoteSplit.step)
                with atomic.replacing(folder / info.path, lasting=False) as temporary:
                    temporary.write_bytes(head + data)
                    os.utime(temporary, (step := self._times.get(place, NEVER), step))
                return opened()  # before another process removes it


def make_room(folder: Path, size: int, limit: float, since: int) -> None:
    """Remove files until ``size`` more bytes fit the ``limit``: first those needed last. Hold the lock of the folder.

    A file whose time is before the step ``since`` is of no order that is read now.
    """
    counted = folder / "bytes"
    try:
        total = int(counted.read_text()) + size
    except (OSError, ValueError):  # a new folder, or a full disk
        total = NEVER << 31
    if total > limit:
        files = [(path, path.stat()) for path in folder.glob("*/*/*/*")]
        total = size + sum(about.st_size for _, about in files)
        for path, about in sorted(files, key=lambda file: (file[1].st_mtime - since) % (NEVER + 1), reverse=True):
            if total <= limit * (1 - 1 / SLACK):
                break
            path.unlink(missing_ok=True)
            total -= about.st_size
    counted.write_text(str(total))
