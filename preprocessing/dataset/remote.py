# SPDX-License-Identifier: Apache-2.0
"""Remote datasets: publishing uploads the manifest last; reading uses a cache that all processes of a node share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from preprocessing.base import atomic
from preprocessing.base.atomic import NO_ROOM, NOT_ALLOWED, refusal
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.corpus import addresses
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import (
    MANIFEST,
    MOST_MANIFEST,
    NEAR_DUPLICATES,
    VOCABULARY,
    Manifest,
    parse_manifest,
    read_manifest,
)
from preprocessing.dataset.verification import verify_hashes

CACHE_VARIABLE = "PADLESS_CACHE"
FETCH_TIMEOUT_S = 3600.0
MOST_VOCABULARY = 1 << 36
"""Most bytes of a vocabulary, and of an index."""
STAGING = ".building"
"""``ADDRESS.building-FINGERPRINT``: a dataset that will replace the one at the address."""


def cache_folder() -> Path:
    """The cache of this node: ``$PADLESS_CACHE``, or ``padless`` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base, "padless"))


def local(address: str, cache: Path | None = None, timeout_s: float = FETCH_TIMEOUT_S) -> Path:
    """A dataset as a directory: itself if it is local, else a copy in this node's cache, fetched by one process.

    Raises ``DataError`` if there is no complete dataset, ``UserError`` if another process has not fetched it in time.
    """
    if not addresses.is_remote(address):
        return Path(address)
    cache = cache or cache_folder()
    content = manifest_bytes(address)
    if content is None:
        raise DataError(f"{join(address, MANIFEST)}: missing: not a dataset, or one that is not published yet")
    target = cache / "datasets" / hashlib.sha256(content).hexdigest()[:32]
    if not (target / MANIFEST).exists():
        lock = target.with_suffix(".lock")
        refusal = UserError(
            f"{address}: another process of this node has been fetching it for more than {timeout_s:g} s; "
            f"does it still run? ({lock})"
        )
        with locked(lock, timeout_s, refusal):
            if not (target / MANIFEST).exists():
                fetch(address, content, target)
    return target


def fetch(address: str, content: bytes, target: Path) -> None:
    """Copy a dataset to ``target``, check every file against the manifest, and write the manifest last."""
    manifest = parse_manifest(content, join(address, MANIFEST))
    fetch_file(address, INDEX, target, MOST_VOCABULARY)
    if atomic.sha256_file(target / INDEX) != manifest.index:
        (target / INDEX).unlink()
        raise DataError(f"{join(address, INDEX)}: its sha256 is not the manifest's; publish the dataset again")
    index = manifest.shards(target)
    for path, size in zip((VOCABULARY, *index.paths()), (MOST_VOCABULARY, *index.bytes.tolist()), strict=True):
        fetch_file(address, path, target, size)
    for problem in verify_hashes(target, manifest):
        shutil.rmtree(target)
        raise DataError(f"{address}: the copy is not what the manifest says: {problem}")
    atomic.write_bytes(target / MANIFEST, content)


def fetch_file(address: str, path: str, target: Path, most: int) -> None:
    """Copy a file of a dataset, unless it is there. Raises ``DataError`` after more than ``most`` bytes."""
    if not (target / path).exists():
        with atomic.replacing(target / path) as temporary, open(temporary, "wb") as file:
            for piece in at_most(most, join(address, path)):
                file.write(piece)
            file.flush()


def publish(root: Path, address: str) -> None:
    """Copy a finished dataset to a remote address, the manifest last.

    If another dataset is there, the new one is first uploaded to a staging address (``ADDRESS.building-…``). Then the
    old manifest is deleted and the store copies the files into place. An interrupted job still has the dataset in its
    local staging directory, and continues when it is started again.
    """
    manifest = read_manifest(root)
    address = address.rstrip("/")
    system, base = addresses.filesystem(address)
    suffix = f"{STAGING}-{manifest.fingerprint[:12]}"
    every = [*names(root, manifest), *(path.name for path in root.glob(NEAR_DUPLICATES)), MANIFEST]
    with addresses.naming(address):
        if system.get_file_info(f"{base}/{MANIFEST}").type == fs.FileType.NotFound:
            send(root, system, base, every, address)
        else:
            send(root, system, base + suffix, every, address + suffix)
            system.delete_file(f"{base}/{MANIFEST}")
            for path in every:
                with whole(system, f"{base}/{path}", join(address, path)):
                    system.copy_file(f"{base}{suffix}/{path}", f"{base}/{path}")
        if system.get_file_info(base + suffix).type == fs.FileType.Directory:  # also one of an interrupted job
            system.delete_dir(base + suffix)


def send(root: Path, system: fs.FileSystem, base: str, paths: list[str], address: str) -> None:
    """Copy files of a directory below ``base``. Raises ``DataError`` for an incomplete copy, ``StorageError`` if there
    is no room.
    """
    for path in paths:
        with (
            whole(system, f"{base}/{path}", join(address, path)),
            open(root / path, "rb") as file,
            system.open_output_stream(f"{base}/{path}") as sink,
        ):
            while piece := file.read(addresses.READ_BYTES):
                sink.write(piece)
        size = system.get_file_info(f"{base}/{path}").size
        if size != (root / path).stat().st_size:
            raise DataError(f"{join(address, path)}: only {size} of {(root / path).stat().st_size} bytes arrived")


@contextmanager
def whole(system: fs.FileSystem, target: str, address: str) -> Iterator[None]:
    """Delete ``target`` if writing it fails: a store on a file system keeps a partial file."""
    try:
        yield
    except OSError as error:
        with suppress(Exception):  # report the failed write
            system.delete_file(target)
        if error.errno in NO_ROOM | NOT_ALLOWED:
            raise refusal(error, address, otherwise="name another --output") from None
        raise


def names(root: Path, manifest: Manifest) -> list[str]:
    """Every file of a dataset except the manifest."""
    return [VOCABULARY, INDEX, *manifest.shards(root).paths()]


def join(address: str, path: str) -> str:
    """The address of a file below ``address``."""
    return f"{address.rstrip('/')}/{path}"


def manifest_bytes(address: str) -> bytes | None:
    """The manifest of a remote dataset; None if there is none."""
    target = join(address, MANIFEST)
    if addresses.kind(target) == fs.FileType.NotFound:
        return None
    return b"".join(at_most(MOST_MANIFEST, target))


def at_most(size: int, address: str) -> Iterator[bytes]:
    """A remote file in pieces. Raises ``DataError`` after more than ``size`` bytes."""
    for piece in addresses.stream(address):
        size -= len(piece)
        if size < 0:
            raise DataError(f"{address}: larger than expected; publish the dataset again")
        yield piece
