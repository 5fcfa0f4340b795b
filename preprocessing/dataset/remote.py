# SPDX-License-Identifier: Apache-2.0
"""Remote datasets are read through a cache that all processes of a node share.

A reader's folder in the cache has manifest, index and vocabulary, whole and checked, and the address of the shards. A
record batch is read by one request for its bytes, checked against the index, and kept as a separate shard::

    blocks/DATASET/2/train/00007-w0128.arrow      record batch 2 of that shard

**Limit.** Files are removed before a new one exceeds ``$PADLESS_CACHE_GB``, first those that were needed last, so that
passes over a larger dataset find the rest of it still there; the blocks of the windows in use come last. The time of a
file (mtime) has it: 0 while it is in use, then when that ended. No process waits for room: a process that has mapped a
removed file can still read it, others fetch it again. So disk usage may exceed the limit by the two windows in use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.atomic import storage_errors
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import lock_file
from preprocessing.corpus import addresses
from preprocessing.dataset.index import INDEX, ShardInfo
from preprocessing.dataset.shards import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    REBUILD,
    VOCABULARY,
    Block,
    Manifest,
    Shard,
    Split,
    check_vocabulary,
    parse_manifest,
    schema,
)

CACHE_VARIABLE, LIMIT_VARIABLE = "PADLESS_CACHE", "PADLESS_CACHE_GB"
ADDRESS = "address"
"""The file in a dataset's folder with the address of its shards."""
BLOCKS, CACHE_HINT = "blocks", f"name another folder by ${CACHE_VARIABLE}"
TIMEOUT_S = 3600.0
THREADS = 4
"""Simultaneous requests of a process."""
SPARE_SHARE = 1 / 32
"""Share of the limit that is freed in addition, so that files are not listed for each new one."""
MAX_VOCABULARY_BYTES = 1 << 36
"""Limit of an index too."""


def local(address: str) -> Path:
    """A dataset as a directory: itself if it is local, else its folder in this node's cache, made by one process.

    Raises ``DataError`` if there is no complete dataset, ``UserError`` if another process has not made it in time.
    """
    if not addresses.is_remote(address):
        return Path(address)
    manifest = join(address, MANIFEST)
    identity = addresses.identity(manifest, hint="not a dataset, or one that is not published yet")
    key = atomic.canonical_json([address, identity])
    target = cache_folder() / "datasets" / hashlib.sha256(key).hexdigest()[:32]
    if not (target / MANIFEST).exists():
        lock = target.with_suffix(".lock")
        busy = UserError(f"{address}: another process of this node has been fetching it for an hour ({lock})")
        with storage_errors(target, otherwise=CACHE_HINT), lock_file(lock, TIMEOUT_S, busy):
            if not (target / MANIFEST).exists():
                fetch(address, target)
    return target


def fetch(address: str, target: Path) -> None:
    """Copy all of a dataset but its shards to ``target``, check it, and write the manifest last."""
    content = b"".join(read_pieces(join(address, MANIFEST), MAX_MANIFEST_BYTES))
    manifest = parse_manifest(content, join(address, MANIFEST))
    target.mkdir(mode=0o700, parents=True, exist_ok=True)  # an address may hold a password
    atomic.write_text(target / ADDRESS, address.rstrip("/"))
    for name in (INDEX, VOCABULARY):
        with atomic.replacing(target / name) as temporary, open(temporary, "wb") as file:
            file.writelines(read_pieces(join(address, name), MAX_VOCABULARY_BYTES))
            file.flush()
    try:
        manifest.shards(target)
        check_vocabulary(target, manifest)
    except DataError as error:
        shutil.rmtree(target)
        raise DataError(f"{address}: the copy is not what the manifest says: {error}") from None
    atomic.write_bytes(target / MANIFEST, content)


def join(address: str, path: str) -> str:
    """The address of a file below ``address``."""
    return f"{address.rstrip('/')}/{path}"


def read_pieces(address: str, max_bytes: int) -> Iterator[bytes]:
    """A remote file in pieces. Raises ``DataError`` if it is larger than ``max_bytes``."""
    size = addresses.info_of(address).size or 0
    if size > max_bytes:
        raise DataError(f"{address}: larger than expected; publish the dataset again")
    for start in range(0, size, addresses.READ_BYTES):
        yield addresses.read_range(address, start, min(start + addresses.READ_BYTES, size))


def cache_folder() -> Path:
    """The cache of this node: ``$PADLESS_CACHE``, or ``padless`` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base, "padless"))


def limit_bytes() -> float:
    """Most bytes of remote shards in the cache. Raises ``ConfigError`` for another value than a number."""
    gigabytes = os.environ.get(LIMIT_VARIABLE) or "inf"
    with suppress(ValueError):
        if (limit := float(gigabytes) * 1e9) >= 0:
            return limit
    raise ConfigError(f"{LIMIT_VARIABLE}: {gigabytes!r} is no number of gigabytes, such as 200 or 0.5")


def split_of(root: str | Path, manifest: Manifest, name: str) -> Split:
    """Open a split of the dataset in a directory, or of a remote one by its folder in the cache."""
    return (RemoteSplit if Path(root, ADDRESS).exists() else Split)(root, manifest, name)


class RemoteSplit(Split):
    """A split whose shards are remote; the cache has each of its blocks as a shard with one block."""

    is_remote = True

    def __init__(self, root: str | Path, manifest: Manifest, name: str) -> None:
        """``root``: the dataset's folder in the cache."""
        super().__init__(root, manifest, name)
        self.address, self.limit, self.folder = Path(root, ADDRESS).read_text(), limit_bytes(), cache_folder() / BLOCKS
        self._blocks_in_use = set[int]()
        """The blocks of the latest window and the next one."""
        self._open_shards = dict[int, Shard]()
        """Block in use -> its mapped file."""

    def states(self) -> np.ndarray:
        """No states: files in the cache are removed, but never changed."""
        return np.arange(0)

    def _map_block(self, number: int) -> tuple[Path, Block]:
        shard = self._open_shards.get(number) or self._fetch_block(number)
        if number in self._blocks_in_use:
            self._open_shards[number] = shard
        return shard.path, shard.blocks[0]

    def fetch_blocks(self, blocks: Sequence[int], next_blocks: Sequence[int]) -> None:
        """Fetch the ``blocks`` of a window now, and those of the next window in threads."""
        blocks_before, self._blocks_in_use = self._blocks_in_use, {*blocks, *next_blocks}
        for block in blocks_before | self._blocks_in_use:
            info, _, folder = self._file_of(block)
            with suppress(FileNotFoundError):
                set_last_use(folder / info.path, is_in_use=block in self._blocks_in_use)
        for block in blocks_before - self._blocks_in_use:
            self._open_shards.pop(block, None)
        for thread in self._start_threads(blocks):
            thread.join()  # cannot hang: each request ends
        self._start_threads(next_blocks)

    def _start_threads(self, blocks: Sequence[int]) -> list[threading.Thread]:
        """Threads that fetch blocks, in another order than other processes; an error is raised when a block is read."""
        order = np.roll(np.array(blocks, int), os.getpid() * (THREADS + 1)).tolist()

        def read_blocks(first: int) -> None:
            with suppress(UserError):
                for block in order[first::THREADS]:
                    self.blocks[block]

        threads = []
        for first in range(THREADS):
            threads.append(threading.Thread(target=read_blocks, args=(first,), name="padless-cache", daemon=True))
            threads[first].start()
        return threads

    def _file_of(self, block: int) -> tuple[ShardInfo, int, Path]:
        """A block's shard, the block's number in it, and the folder of the block's file."""
        line, number = self.locate_block(block)
        return self.index[line], number, self.folder / Path(self.root).name / str(number)

    def _fetch_block(self, block: int) -> Shard:
        """A block as a shard, from its file or its address. Raises ``DataError`` if it cannot be read or is another."""
        info, number, folder = self._file_of(block)
        address = f"{self.address}/{info.path}"
        try:
            (start, stop), digest = info.starts[number : number + 2], info.hashes[number]
        except (ValueError, IndexError):
            raise DataError(f"{address}: the index names fewer record batches than it has; {REBUILD}") from None
        dtype, rows = self.manifest.id_dtype, int(self.block_starts[block + 1] - self.block_starts[block])
        head = arrays.MAGIC + schema(info.width, np.dtype(dtype)).serialize().to_pybytes()
        size = len(head) + stop - start
        block_info = replace(info, rows=rows, bytes=size, starts=[len(head), size], hashes=[digest])

        def open_file() -> Shard:
            shard = Shard(folder, block_info, dtype, rows)
            shard.check_hash(0)
            return shard

        with suppress(DataError):  # not there, or damaged
            return open_file()
        busy = UserError(f"{address}: for an hour, another process has been fetching it, or removing files")
        with lock_file(self.folder / f"{digest[:2]}.lock", TIMEOUT_S, busy):
            with suppress(DataError):  # another process has fetched it
                return open_file()
            data = addresses.read_range(address, start, stop, digest)
            with (
                storage_errors(self.folder, otherwise=CACHE_HINT),
                lock_file(self.folder / "room.lock", TIMEOUT_S, busy),
            ):
                make_room(self.folder, size, self.limit)
                with atomic.replacing(folder / info.path, lasting=False) as temporary:
                    temporary.write_bytes(head + data)
                    set_last_use(temporary, is_in_use=block in self._blocks_in_use)
                return open_file()  # before another process removes it


def set_last_use(file: Path, *, is_in_use: bool) -> None:
    """Record in the time of a cached file that a window needs it, or that none does from now on."""
    os.utime(file, (0, 0) if is_in_use else None)


def make_room(folder: Path, size: int, limit: float) -> None:
    """Remove files, those in use last, until ``size`` more bytes fit the ``limit``. Hold the lock of the folder."""
    total_file, total = folder / "bytes", None
    with suppress(OSError, ValueError):  # a new folder, or a full disk
        total = int(total_file.read_text()) + size
    if total is None or total > limit:
        stats = [(path, path.stat()) for path in folder.glob("*/*/*/*")]
        total = size + sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda file: file[1].st_mtime, reverse=True):
            if total <= limit * (1 - SPARE_SHARE):
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size
    total_file.write_text(str(total))
