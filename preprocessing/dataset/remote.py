# SPDX-License-Identifier: Apache-2.0
"""Remote datasets are read through a cache that all processes of a node share.

A dataset's folder in the cache has manifest, index and vocabulary, whole and checked, and the address of the shards. A
record batch is read by one request for its bytes, checked against the index, and kept as a shard of its own, in a
folder that is named after the hash of these bytes.

**Limit.** Before ``$PADLESS_CACHE_GB`` is reached, files are removed at random, so that passes over a larger dataset
find a part of it still there. No process waits for room: one that has mapped a removed file can still read it, others
fetch it again.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from padless.core import arrays, atomic
from padless.core.atomic import storage_errors
from padless.core.errors import ConfigError, DataError, UserError
from padless.core.processes import lock_file
from preprocessing.dataset.index import INDEX
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
from preprocessing.sources import addresses

CACHE_VARIABLE, LIMIT_VARIABLE = "PADLESS_CACHE", "PADLESS_CACHE_GB"
ADDRESS = "address"
"""The file in a dataset's folder with the address of its shards."""
BLOCKS, CACHE_HINT = "blocks", f"name another folder by ${CACHE_VARIABLE}"
TIMEOUT_S = 3600.0
THREADS = 4
"""Simultaneous requests of a process."""
SPARE_SHARE, UNCOUNTED_SHARE = 1 / 4, 1 / 64
"""Shares of the limit: that is free after files were removed; that a process writes before it lists all files again."""
MAX_VOCABULARY_BYTES = 1 << 36
"""Limit of an index too."""
folder_by_address: dict[str, Path] = {}
"""The datasets that this process has opened: it asks for a manifest once, so a store may be away later."""


def local(address: str) -> Path:
    """A dataset as a directory: itself if it is local, else its folder in this node's cache, made by one process.

    Raises ``DataError`` if there is no complete dataset, ``UserError`` if another process has not made it in time.
    """
    if not addresses.is_remote(address):
        return Path(address)
    if address in folder_by_address and (folder_by_address[address] / MANIFEST).exists():
        return folder_by_address[address]
    identity = addresses.identity(join(address, MANIFEST), hint="not a dataset, or one that is not published yet")
    key = atomic.canonical_json([address, identity])
    target = cache_folder() / "datasets" / hashlib.sha256(key).hexdigest()[:32]
    lock = target.with_suffix(".lock")
    busy = UserError(f"{address}: another process of this node has been fetching it for an hour ({lock})")
    with storage_errors(target, otherwise=CACHE_HINT), lock_file(lock, TIMEOUT_S, busy):
        if not (target / MANIFEST).exists():
            fetch(address, target)
    folder_by_address[address] = target
    return target


def fetch(address: str, target: Path) -> None:
    """Copy all of a dataset but its shards to ``target``, check it, and write the manifest last."""
    content = read_file(join(address, MANIFEST), MAX_MANIFEST_BYTES)
    manifest = parse_manifest(content, join(address, MANIFEST))
    target.mkdir(mode=0o700, parents=True, exist_ok=True)  # an address may hold a password
    atomic.write_text(target / ADDRESS, address.rstrip("/"))
    for name in (INDEX, VOCABULARY):
        atomic.write_bytes(target / name, read_file(join(address, name), MAX_VOCABULARY_BYTES))
    try:
        manifest.shards(target)
        check_vocabulary(target, manifest)
    except DataError as error:
        shutil.rmtree(target)
        raise DataError(f"{address}: the copy is not what the manifest says: {error}") from None
    atomic.write_bytes(target / MANIFEST, content)


def join(address: str | Path, path: str) -> str:
    """The path or address of a file below ``address``; a ``Path`` would spoil an address."""
    return f"{str(address).rstrip('/')}/{path}"


def read_file(address: str, max_bytes: int) -> bytes:
    """All of a remote file. Raises ``DataError`` if it is larger than ``max_bytes``."""
    with addresses.open_file(address) as file, addresses.naming(address):
        if file.size() > max_bytes:
            raise DataError(f"{address}: larger than expected; publish the dataset again")
        return bytes(file.read())


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
        self._window_shards = dict[int, Shard | None]()
        """Each block of the latest window and the next one, with its file once that is mapped."""
        self._uncounted_bytes = self.limit
        """Written since the files in the cache were listed."""

    def states(self) -> np.ndarray:
        """No states: files in the cache are removed, but never changed."""
        return np.arange(0)

    def _map_block(self, number: int) -> tuple[Path, Block]:
        shard = self._window_shards.get(number) or self._fetch_block(number)
        if number in self._window_shards:
            self._window_shards[number] = shard
        return shard.path, shard.blocks[0]

    def fetch_blocks(self, blocks: Sequence[int], next_blocks: Sequence[int]) -> None:
        """Fetch the ``blocks`` of a window now, and those of the next window in threads."""
        self._window_shards = {block: self._window_shards.get(block) for block in (*blocks, *next_blocks)}
        for thread in self._start_threads(blocks):
            thread.join()  # cannot hang: each request ends
        self._start_threads(next_blocks)

    def _start_threads(self, blocks: Sequence[int]) -> list[threading.Thread]:
        """Threads that fetch blocks, in another order than other processes; an error is raised when a block is read."""
        order = random.sample(blocks, len(blocks))

        def read_blocks(first: int) -> None:
            with suppress(UserError):
                for block in order[first::THREADS]:
                    self.blocks[block]

        threads = [
            threading.Thread(target=read_blocks, args=(first,), name="padless-cache", daemon=True)
            for first in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _fetch_block(self, block: int) -> Shard:
        """A block as a shard, from its file or its address. Raises ``DataError`` if it cannot be read or is another."""
        line, number = self.locate_block(block)
        info = self.index[line]
        address = join(self.address, info.path)
        try:
            (start, stop), digest = info.starts[number : number + 2], info.hashes[number]
        except (ValueError, IndexError):
            raise DataError(f"{address}: the index names fewer record batches than it has; {REBUILD}") from None
        dtype, rows = self.manifest.id_dtype, int(self.block_starts[block + 1] - self.block_starts[block])
        head = arrays.MAGIC + schema(info.width, np.dtype(dtype)).serialize().to_pybytes()
        size, folder = len(head) + stop - start, self.folder / digest
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
                self._make_room(size)
                with atomic.replacing(folder / info.path, lasting=False) as temporary:
                    temporary.write_bytes(head + data)
                return open_file()  # before another process removes it

    def _make_room(self, size: int) -> None:
        """Remove files at random until ``size`` more bytes fit the limit. Hold the lock of the folder."""
        self._uncounted_bytes += size
        if self._uncounted_bytes <= self.limit * UNCOUNTED_SHARE:
            return
        sizes = [(path, path.stat().st_size) for path in self.folder.glob("*/*/*.arrow")]
        random.shuffle(sizes)
        total, self._uncounted_bytes = size + sum(num_bytes for _, num_bytes in sizes), 0
        for path, num_bytes in sizes:
            if total <= self.limit * (1 - SPARE_SHARE):
                break
            path.unlink()
            total -= num_bytes
