# SPDX-License-Identifier: Apache-2.0
"""Where the shards of a dataset lie during a run: mapped where they are, or staged to a local directory first.

A network file system is slow to map, so shards are copied from one to a local directory, once per node for all its
processes. While a run has them mapped, a change of the files is noticed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from harness.ranks.distributed import World, launched_local_rank
from harness.ranks.precision import Choice
from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.processes import locked
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.untrusted import open_regular
from preprocessing.dataset.shards import Manifest, ShardInfo, Split, read_manifest

NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs", "wekafs"]
)
"""File system types whose pages come over a network. Anything in user space (fuse…) counts as one too."""
STAGE_SHARE = 0.8
"""Share of a stage directory's free space that the shards may take."""
CHUNK_BYTES = 8 << 20
CHECK_EVERY_S = 1.0


class OpenData:
    """The open splits of a dataset. It notices that their files change: if a mapped file is cut short, the kernel ends
    a process that reads one of the lost pages (SIGBUS).
    """

    def __init__(self, data: str, manifest: Manifest, names: Collection[str], root: Path, stage: Choice) -> None:
        """Map the splits ``names`` of the dataset ``data`` below ``root``, the dataset itself or a staged copy."""
        self.data, self.manifest, self.root = data, manifest, root
        self.choices = {"staging": stage}
        """For the first lines of a run."""
        self.splits = {name: Split(root, manifest, name) for name in names}
        paths = [root / info.path for name in names for info in manifest.splits[name]]
        self.files = {path: state_of(path) for path in paths}
        self.looked = time.monotonic()

    def check(self) -> None:
        """Between epochs: the manifest is still the one the run began with, and every shard is in its place.

        Raises ``DataError``.
        """
        if read_manifest(self.data).fingerprint != self.manifest.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (its fingerprint is another); put the old one "
                "back, or start a new run"
            )
        self.looked = 0.0
        self.look()

    def look(self) -> None:
        """Between steps, before rows are read: at most once a second, at the shards alone. Raises ``DataError``."""
        if time.monotonic() - self.looked >= CHECK_EVERY_S:
            self.looked = time.monotonic()
            for path, before in self.files.items():
                if state_of(path) != before:
                    raise DataError(
                        f"{path}: this shard was removed or replaced while the run used it, or cut short; put it back"
                    )


def state_of(path: Path) -> tuple[int, int, int] | None:
    """What no file keeps that is changed or replaced; None where there is none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def open_data(
    data: str, manifest: Manifest, names: Collection[str], world: World, *, timeout_s: float, stage_dir: str = "auto"
) -> OpenData:
    """Stage, open and watch splits of a dataset. Every rank calls it; raises the same ``UserError`` on all.

    The first process of each node stages for all of it and waits at most ``timeout_s`` seconds for one of another run;
    ``stage_dir`` is auto, none or a directory.
    """
    held = sorted(name for name, shards in manifest.splits.items() if shards)
    for name in names:
        if name not in held:
            raise DataError(f"{data}: has no split {name!r}; it has {', '.join(held)}")
    choices = world.gather_objects(stage_choice(data, manifest, names, stage_dir), "where shards are staged")
    choice = choices[world.rank - launched_local_rank()]
    root = Path(data) if choice.value == "none" else staged_path(choice.value, manifest)
    with world.together("staging the dataset"):
        if choice.value != "none" and launched_local_rank() == 0:
            stage(data, manifest, choice.value, names, timeout_s)
    with world.together("opening the dataset"):
        return OpenData(data, manifest, names, root, choice)


def trained_splits(manifest: Manifest, *, unlabelled: bool) -> list[str]:
    """The splits that a training opens; ``unlabelled``: also the rows without labels."""
    return [name for name, shards in manifest.splits.items() if shards and (unlabelled or name != UNLABELLED)]


def filesystem(path: str | Path) -> str:
    """Type of the file system that holds ``path``, as in ``ext4`` or ``nfs4``; ``unknown`` where nothing says."""
    import psutil

    target = Path(os.path.realpath(path))
    mounts = [part for part in psutil.disk_partitions(all=True) if target.is_relative_to(part.mountpoint)]
    deepest = max((len(part.mountpoint) for part in mounts), default=0)
    return next((part.fstype for part in reversed(mounts) if len(part.mountpoint) == deepest), "unknown")


def is_network(kind: str) -> bool:
    """Whether pages of this kind of file system are fetched over a network."""
    return kind in NETWORK or kind.startswith("fuse")


def stage_choice(data: str | Path, manifest: Manifest, names: Collection[str], wanted: str) -> Choice:
    """``none`` or the directory to stage the splits ``names`` into, and why. ``wanted``: auto, none or a directory."""
    kind = filesystem(data)
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if not is_network(kind):
        return Choice("none", f"the dataset lies on {kind}, which is local")
    needed = sum(info.bytes for name in names for info in manifest.splits[name])
    for path in (os.environ.get("SLURM_TMPDIR"), tempfile.gettempdir()):
        local = path and Path(path).is_dir() and not is_network(filesystem(path))
        if path and local and needed <= STAGE_SHARE * shutil.disk_usage(path).free:
            return Choice(path, f"the dataset lies on {kind}; {needed / 1e6:,.0f} MB fit here")
    return Choice("none", f"the dataset lies on {kind}, but no local directory has room; name one: stage_dir")


def staged_path(directory: str | Path, manifest: Manifest) -> Path:
    """Where a dataset is staged below a stage directory. Other contents and other users have other names."""
    return Path(directory) / f"padless-{os.getuid()}" / manifest.fingerprint[:32]


def stage(data: str | Path, manifest: Manifest, directory: str, names: Collection[str], timeout_s: float) -> Path:
    """Copy every shard of the splits ``names`` that is not there yet; return the directory they lie in.

    Several processes may call this at once: one copies, and the others wait for its lock, at most ``timeout_s``
    seconds. A copy gets its name once its sha256 is that of the manifest (law 2). A copy that is already there is used
    if its sha256 is still right. Raises ``StorageError`` where nothing can be written, ``ConfigError`` if the wait
    was too long or somebody else can write there, ``DataError`` if a shard's bytes are not those of the manifest.
    """
    target = staged_path(directory, manifest)
    refusal = ConfigError(
        f"stage_dir: waited {timeout_s:.0f} s for {target / '.lock'}, held by another process that stages; "
        f"raise timeout_s, or stop that process"
    )
    with storing(target, otherwise="name a local directory with room for the shards in stage_dir"):
        make_private(target.parent)
        target.mkdir(exist_ok=True)
        with locked(target / ".lock", timeout_s, refusal):
            for info in (info for name in names for info in manifest.splits[name]):
                copy_shard(Path(data, info.path), target / info.path, info)
    return target


def make_private(path: Path) -> None:
    """Make a folder in which this user alone can write.

    Its name is known to all: whoever made it before, or a link in its place, could lead the copies over other files.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"stage_dir: {path} is no folder of this user that others cannot write to, so shards are not copied there; "
            "remove it, or name another directory"
        )
    path.chmod(0o700)


def copy_shard(source: Path, target: Path, info: ShardInfo) -> None:
    if target.is_file() and target.stat().st_size == info.bytes and atomic.sha256_file(target) == info.sha256:
        return
    try:
        file = open_regular(source)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}); try again") from None
    with file, atomic.replacing(target) as temporary:
        with open(temporary, "wb") as sink:
            shutil.copyfileobj(file, sink, CHUNK_BYTES)
        if atomic.sha256_file(temporary) != info.sha256:
            raise DataError(f"{source}: its sha256 is not the manifest's: bytes were changed; build the dataset again")
