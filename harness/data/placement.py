# SPDX-License-Identifier: Apache-2.0
"""Open the shards of a dataset for a run: mapped in place, or staged to a local directory first.

Mapping files on a network file system is slow; ``stage_dir`` copies their shards to a local directory, once per node
for all its processes. A run checks at each validation that the files have not changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.config import NOTHING
from harness.data.targets import SoftTargets
from harness.distributed.world import World, read_local_rank
from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import ConfigError, DataError
from padless.core.processes import lock_file
from padless.core.untrusted import make_private, open_regular
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.views import home_of, open_split, read_data
from preprocessing.sources.addresses import is_remote

CHUNK_BYTES = 8 << 20


@dataclass
class OpenData:
    """The open splits of a dataset. After a mapped file is truncated, reading a lost page kills the process
    (SIGBUS).
    """

    data: str
    manifest: Manifest
    splits: dict[str, Split]
    targets: SoftTargets | None = None
    """Of the rows of ``train``, where a teacher has taught."""

    def check(self) -> None:
        """Between epochs: raise ``DataError`` if the manifest or a mapped shard has changed since the start."""
        if read_data(self.data).fingerprint != self.manifest.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (it has another fingerprint); restore the old "
                "one, or start a new run"
            )
        for split in self.splits.values():
            split.check_unchanged()


def open_data(
    data: str, manifest: Manifest, names: Collection[str], world: World, *, timeout_s: float, stage_dir: str
) -> OpenData:
    """Stage and open splits of a dataset. Every rank calls it; raises the same ``UserError`` on all.

    The first process of each node stages the shards, and waits at most ``timeout_s`` seconds if another run is staging
    them. ``stage_dir``: a directory, or none.
    """
    for name in sorted({*names}.difference(manifest.names)):
        splits = ", ".join(sorted(manifest.names))
        raise DataError(f"{data}: has no split {name!r}; it has {splits}; name another")
    staged = None
    with world.raise_together("staging the dataset"):
        if stage_dir != NOTHING and not is_remote(data):  # shards of a remote one are cached already
            staged = staging_path(stage_dir, manifest)
            if read_local_rank() == 0:
                stage(home_of(data), manifest, stage_dir, [*filter(manifest.splits.get, names)], timeout_s)
    with world.raise_together("opening the dataset"):
        return OpenData(data, manifest, {name: open_split(data, manifest, name, staged) for name in names})


def staging_path(directory: str | Path, manifest: Manifest) -> Path:
    """Directory of a staged dataset; its name depends on content and user."""
    return Path(directory) / f"padless-{os.getuid()}" / manifest.fingerprint[:32]


def stage(data: str | Path, manifest: Manifest, directory: str, names: Collection[str], timeout_s: float) -> Path:
    """Copy every missing shard of the splits ``names``; returns the directory of the copies.

    Several processes may call this at once: one copies, and the others wait for its lock, at most ``timeout_s``
    seconds. A copy gets its final name after its sha256 is verified (law 2). An existing copy is reused if its sha256
    is right. Raises ``StorageError`` if writing fails, ``ConfigError`` after a timeout or if other users can write
    there, ``DataError`` if a shard does not match the manifest.
    """
    target = staging_path(directory, manifest)
    refusal = ConfigError(
        f"stage_dir: waited {timeout_s:.0f} s for {target / '.lock'}, held by another process that stages; "
        f"raise timeout_s, or stop that process"
    )
    with storage_errors(target, otherwise="name a local directory with room for the shards in stage_dir"):
        make_private(target.parent, "stage_dir")
        target.mkdir(exist_ok=True)
        with lock_file(target / ".lock", timeout_s, refusal):
            copy_file(Path(data, INDEX), target / INDEX, manifest.index)
            for info in manifest.shards(target, names):
                copy_file(Path(data, info.path), target / info.path, info.sha256)
    return target


def copy_file(source: Path, target: Path, sha256: str) -> None:
    if target.is_file() and atomic.sha256_file(target) == sha256:
        return
    try:
        file = open_regular(source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); try again") from None
    with file, atomic.replacing(target, lasting=False) as temporary:
        with open(temporary, "wb") as sink:
            shutil.copyfileobj(file, sink, CHUNK_BYTES)
        if atomic.sha256_file(temporary) != sha256:
            raise DataError(f"{source}: its sha256 is not the manifest's: bytes were changed; build the dataset again")
