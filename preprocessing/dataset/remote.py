# SPDX-License-Identifier: Apache-2.0
"""Remote datasets: manifest, index and vocabulary in a folder of this node's cache, shards copied there when needed.

The folder also has the address of the shards. A shard is copied whole, checked against its hash in the index
(:func:`preprocessing.sources.addresses.open_copy`), and read by all processes of the node.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import cached_property
from pathlib import Path

import numpy as np

from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import DataError, UserError
from padless.core.processes import lock_file
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    VOCABULARY,
    Manifest,
    Shard,
    Split,
    check_vocabulary,
    parse_manifest,
)
from preprocessing.sources import addresses
from preprocessing.sources.addresses import CACHE_HINT, LOCK_TIMEOUT_S, cache_folder
from preprocessing.text.vocabulary import MAX_VOCABULARY_BYTES

ADDRESS = "address"
"""The file in a dataset's folder with the address of its shards."""
folder_by_address: dict[str, Path] = {}
"""The datasets that this process has opened: it asks for a manifest once, so a store may be away later."""


def local(address: str | Path) -> Path:
    """A dataset as a directory: itself if it is local, else its folder in this node's cache, made by one process.

    Raises ``DataError`` if there is no complete dataset, ``UserError`` if another process has not made it in time.
    """
    address = str(address)
    if not addresses.is_remote(address):
        return Path(address)
    if address in folder_by_address and (folder_by_address[address] / MANIFEST).exists():
        return folder_by_address[address]
    identity = addresses.identity(join(address, MANIFEST), hint="not a dataset, or one that is not published yet")
    key = atomic.canonical_json([address, identity])
    target = cache_folder() / "datasets" / hashlib.sha256(key).hexdigest()[:32]
    lock = target.with_suffix(".lock")
    busy = UserError(f"{address}: another process of this node has been fetching it for an hour ({lock})")
    with storage_errors(target, otherwise=CACHE_HINT), lock_file(lock, LOCK_TIMEOUT_S, busy):
        if not (target / MANIFEST).exists():
            fetch(address, target)
    folder_by_address[address] = target
    return target


def fetch(address: str, target: Path) -> None:
    """Copy all of a dataset but its shards to ``target``, check it, and write the manifest last."""
    content = addresses.read_address(join(address, MANIFEST), MAX_MANIFEST_BYTES)
    manifest = parse_manifest(content, join(address, MANIFEST))
    target.mkdir(mode=0o700, parents=True, exist_ok=True)  # an address may hold a password
    atomic.write_text(target / ADDRESS, address.rstrip("/"))
    for name in (INDEX, VOCABULARY):  # an index is no larger than a vocabulary may be
        atomic.write_bytes(target / name, addresses.read_address(join(address, name), MAX_VOCABULARY_BYTES))
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


def open_split(data: str | Path, manifest: Manifest, name: str) -> Split:
    """Map a split of a dataset, local or remote. Raises ``DataError`` as ``Split`` does."""
    root = local(data)
    return (RemoteSplit if (root / ADDRESS).exists() else Split)(root, manifest, name)


class RemoteSplit(Split):
    """A split whose shards are remote; the cache has copies of them, which are removed but never changed."""

    is_remote, max_open_shards = True, 64

    @cached_property
    def address(self) -> str:
        """Of the dataset, whose folder in the cache is ``root``."""
        return Path(self.root, ADDRESS).read_text()

    def states(self) -> np.ndarray:
        """No states: there may be no copy."""
        return np.arange(0)

    def _map_shard(self, line: int) -> Shard:
        info, dtype, block_rows = self.index[line], self.manifest.id_dtype, self.manifest.block_rows
        address = join(self.address, info.path)
        return addresses.open_copy(address, lambda path: Shard(path, info, dtype, block_rows), info.sha256)
