# SPDX-License-Identifier: Apache-2.0
"""Open the shards of a dataset for a run: mapped in place, or staged to a local directory first.

Mapping files on a network file system is slow, so their shards are copied to a local directory, once per node for all
its processes. While a run uses the shards, it checks that the files do not change.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from harness.ranks.distributed import World, launched_local_rank
from harness.ranks.precision import Choice
from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.processes import locked
from preprocessing.base.untrusted import make_private, open_regular
from preprocessing.corpus import addresses
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.remote import ADDRESS, cache_folder
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.views import open_split, parts_of, read_data

NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "wekafs"]
)
"""Types of network file systems. File systems in user space (fuse…) count as network too."""
STAGE_SHARE = 0.8
"""Maximum share of a stage directory's free space for shards."""
CHUNK_BYTES = 8 << 20
CHECK_EVERY_S = 1.0


@dataclass
class OpenData:
    """The open splits of a dataset or mixture. Detects changes of their files: after a mapped file is truncated,
    reading a lost page kills the process (SIGBUS).
    """

    data: str
    manifest: Manifest
    splits: dict[str, Split]
    choices: dict[str, Choice]
    """For the settings printed at the start."""
    looked: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Between epochs: raise ``DataError`` if the manifest or a mapped shard has changed since the start."""
        if read_data(self.data).fingerprint != self.manifest.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (it has another fingerprint); restore the old "
                "one, or start a new run"
            )
        self.looked = 0.0
        self.look()

    def look(self) -> None:
        """Before rows are read: raise ``DataError`` if a mapped shard has changed. Checks at most once a second."""
        if time.monotonic() - self.looked >= CHECK_EVERY_S:
            self.looked = time.monotonic()
            for split in self.splits.values():
                split.look()


def open_data(
    data: str, manifest: Manifest, names: Collection[str], world: World, *, timeout_s: float, stage_dir: str
) -> OpenData:
    """Stage and open splits of a dataset. Every rank calls it; raises the same ``UserError`` on all.

    The first process of each node stages the shards, and waits at most ``timeout_s`` seconds if another run is staging
    them. ``stage_dir``: auto, none or a directory.
    """
    if missing := {*names}.difference(manifest.names):
        held = ", ".join(sorted(manifest.names))
        raise DataError(f"{data}: has no split {min(missing)!r}; it has {held}; name another")
    staged = dict[str | Path, Path]()
    for path, part, _ in parts_of(data, manifest):
        own = [*filter(part.splits.get, names)]
        choices = world.gather_objects(stage_choice(path, part, own, stage_dir), "where shards are staged")
        choice = choices[world.rank - launched_local_rank()]
        if choice.value != "none":
            staged[path] = staged_path(choice.value, part)
        with world.together("staging the dataset"):
            if path in staged and launched_local_rank() == 0:
                stage(path, part, choice.value, own, timeout_s)
    with world.together("opening the dataset"):
        splits = {name: open_split(data, manifest, name, staged) for name in names}
        return OpenData(data, manifest, splits, {"staging": choice})


def filesystem(path: str | Path) -> str:
    """Type of the file system of ``path``, such as ``ext4`` or ``nfs4``, or ``unknown``; or a remote store."""
    import psutil

    if addresses.is_remote(str(path)):
        return "a remote store"
    target = Path(os.path.realpath(path))
    mounts = [part for part in psutil.disk_partitions(all=True) if target.is_relative_to(part.mountpoint)]
    deepest = max(reversed(mounts), key=lambda part: len(part.mountpoint), default=None)
    return "unknown" if deepest is None else deepest.fstype


def is_network(kind: str) -> bool:
    return kind in NETWORK or kind.startswith("fuse")


def stage_choice(data: str | Path, manifest: Manifest, names: Collection[str], wanted: str) -> Choice:
    """The directory to stage the splits ``names`` into, or ``none``, and why. ``wanted``: auto, none or a directory."""
    kind = filesystem(data)
    if Path(data, ADDRESS).exists():
        return Choice("none", f"the dataset is remote, and its blocks are kept in {cache_folder()}")
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if not is_network(kind):
        return Choice("none", f"the dataset lies on {kind}, which is local")
    needed = sum(part.bytes for name in names for part in manifest.splits[name])
    for path in (os.environ.get("SLURM_TMPDIR"), tempfile.gettempdir()):
        local = path and Path(path).is_dir() and not is_network(filesystem(path))
        if path and local and needed <= STAGE_SHARE * shutil.disk_usage(path).free:
            return Choice(path, f"the dataset lies on {kind}; {needed / 1e6:,.0f} MB fit here")
    return Choice("none", f"the dataset lies on {kind}, but no local directory has room; name one: stage_dir")


def staged_path(directory: str | Path, manifest: Manifest) -> Path:
    """Directory of a staged dataset; its name depends on content and user."""
    return Path(directory) / f"padless-{os.getuid()}" / manifest.fingerprint[:32]


def stage(data: str | Path, manifest: Manifest, directory: str, names: Collection[str], timeout_s: float) -> Path:
    """Copy every missing shard of the splits ``names``; returns the directory of the copies.

    Several processes may call this at once: one copies, and the others wait for its lock, at most ``timeout_s``
    seconds. A copy gets its final name after its sha256 is verified (law 2). An existing copy is reused if its sha256
    is right. Raises ``StorageError`` if writing fails, ``ConfigError`` after a timeout or if other users can write
    there, ``DataError`` if a shard does not match the manifest.
    """
    target = staged_path(directory, manifest)
    refusal = ConfigError(
        f"stage_dir: waited {timeout_s:.0f} s for {target / '.lock'}, held by another process that stages; "
        f"raise timeout_s, or stop that process"
    )
    with storing(target, otherwise="name a local directory with room for the shards in stage_dir"):
        make_private(target.parent, "stage_dir")
        target.mkdir(exist_ok=True)
        with locked(target / ".lock", timeout_s, refusal):
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
