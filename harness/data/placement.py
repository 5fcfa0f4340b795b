# SPDX-License-Identifier: Apache-2.0
"""Where a dataset's rows live during a run: in mapped files, in memory or on the device. Each decision has a reason."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Literal

import pyarrow as pa
import torch

from harness.config import RunConfig
from harness.data.device import DeviceRows
from harness.ranks.distributed import World, launched_local_rank, launched_local_world_size
from harness.ranks.precision import Choice
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.machine import locked
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.storage import storing
from preprocessing.base.untrusted import open_regular
from preprocessing.dataset.shards import Manifest, ShardInfo, Split, mapped, read_manifest

Residency = Literal["auto", "mapped", "memory", "device"]
DEVICE_SHARE = 0.25
"""Share of a device's free memory that a split may take; the rest is for the model and its activations."""
MEMORY_SHARE = 0.5
"""Share of a node's free memory that the copies of all its processes may take together."""
STAGE_SHARE = 0.8
"""Share of a stage directory's free space that the shards may take."""


@dataclass(frozen=True)
class Facts:
    """What the decisions depend on, in plain values; ``look`` measures them."""

    kind: str
    """Type of the file system that holds the dataset."""
    shard_bytes: int
    """Bytes of all shards of the splits that are used."""
    token_bytes: int
    """Bytes of the real tokens of the rows that are trained on, or evaluated, as they would lie on the device."""
    free_memory: int
    """Bytes that the node's memory has left."""
    local_processes: int = 1
    free_device: int | None = None
    """Bytes that the device's memory has left; None for a CPU."""
    stage_free: dict[str, int] = field(default_factory=dict)
    """Candidate stage directories on local file systems, best first, and the bytes each has left."""


@dataclass(frozen=True, kw_only=True)
class DataPlacement:
    """What was asked for: where the rows of a dataset are to live."""

    data: str
    """Dataset directory."""
    timeout_s: float
    """Longest wait for another process that stages, in seconds."""
    residency: Residency = "auto"
    """For the split that is trained on or evaluated."""
    stage_dir: str = "auto"
    """Where shards are copied to, once per node: ``auto``, ``none`` or a directory."""

    @classmethod
    def of(cls, config: RunConfig) -> DataPlacement:
        """What the configuration of a training says."""
        return cls(data=config.data, timeout_s=config.timeout_s, residency=config.residency, stage_dir=config.stage_dir)


def look(
    data: str | Path,
    manifest: Manifest,
    splits: Collection[str],
    device: torch.device,
    local_processes: int,
    opened: Collection[str] | None = None,
) -> Facts:
    """Measure this machine. ``splits`` may live on the device; ``opened`` names those in use, or all."""
    import psutil

    shards = [info for name in (manifest.splits if opened is None else opened) for info in manifest.splits[name]]
    candidates = [os.environ.get("SLURM_TMPDIR"), tempfile.gettempdir()]
    local = [path for path in candidates if path and not is_network(filesystem(path))]
    itemsize = 2 if manifest.id_dtype == "uint16" else 4
    return Facts(
        kind=filesystem(data),
        shard_bytes=sum(info.bytes for info in shards),
        token_bytes=itemsize * sum(info.tokens for split in splits for info in manifest.splits[split]),
        free_memory=psutil.virtual_memory().available,
        local_processes=local_processes,
        free_device=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
        stage_free={path: shutil.disk_usage(path).free for path in local if Path(path).is_dir()},
    )


def choose_stage(wanted: str, facts: Facts) -> Choice:
    """``none`` or the directory to stage into. ``wanted``: auto, none or a directory."""
    if wanted == "none":
        return Choice("none", "asked for")
    if wanted != "auto":
        return Choice(wanted, "asked for")
    if not is_network(facts.kind):
        return Choice("none", f"the dataset lies on {facts.kind}, which is local")
    for path, free in facts.stage_free.items():
        if facts.shard_bytes <= STAGE_SHARE * free:
            return Choice(path, f"the dataset lies on {facts.kind}; {megabytes(facts.shard_bytes)} fit here")
    return Choice("none", f"the dataset lies on {facts.kind}, but no local directory has room; name one: stage_dir")


def choose_residency(wanted: Residency, facts: Facts, staged: bool) -> Choice:
    """``mapped``, ``memory`` or ``device`` for the training rows; the other splits are mapped or in memory."""
    if wanted != "auto":
        return Choice(wanted, "asked for")
    tokens, copies = facts.token_bytes, facts.shard_bytes * facts.local_processes
    if facts.free_device is not None and tokens <= DEVICE_SHARE * facts.free_device:
        return Choice("device", f"{megabytes(tokens)} of tokens, {megabytes(facts.free_device)} free on the device")
    if is_network(facts.kind) and not staged and copies <= MEMORY_SHARE * facts.free_memory:
        return Choice(
            "memory", f"not staged from {facts.kind}, where mapping is slow; {megabytes(copies)} fit in memory"
        )
    where = "a local copy" if staged else facts.kind
    return Choice("mapped", f"{megabytes(facts.shard_bytes)} on {where}, shared by all processes of the node")


class OpenData:
    """The splits of a dataset: where their rows live is decided, then they are staged, opened and watched.

    Every rank takes the same three steps. Training opens all splits; a command that reads one split opens and stages
    only that one::

        placement = DataPlacement(data=config.data, timeout_s=config.timeout_s)
        opened = OpenData(placement, manifest, config.split, world, device, only=True)
        with world.together("staging the dataset"):
            opened.copy()
        with world.together("opening the dataset"):
            opened.open()

    Raises ``UserError`` as its parts do.
    """

    def __init__(
        self,
        placement: DataPlacement,
        manifest: Manifest,
        split: str,
        world: World,
        device: torch.device,
        only: bool = False,
        beside: str | None = None,
    ) -> None:
        """Decide; nothing is opened yet. All processes of a node take the decision of its first process.

        ``split`` is the one whose rows may live on the device, and ``beside`` one that every step reads too; unlabelled
        rows are not touched unless named. With ``only`` no other split is. Raises ``DataError`` if the dataset has no
        such split.
        """
        self.placement, self.manifest, self.split, self.device = placement, manifest, split, device
        self.read = [split] if beside is None else [split, beside]
        self.names = [name for name, shards in manifest.splits.items() if shards]
        for name in self.read:
            if name not in self.names:
                raise DataError(f"{placement.data}: has no split {name!r}; it has {', '.join(sorted(self.names))}")
        self.names = self.read if only else [name for name in self.names if name in self.read or name != UNLABELLED]
        self.leads = launched_local_rank() == 0
        facts = look(placement.data, manifest, self.read, device, launched_local_world_size(), self.names)
        staging_choice = choose_stage(placement.stage_dir, facts)
        residency = choose_residency(placement.residency, facts, staged=staging_choice.value != "none")
        everyone = world.gather_objects((staging_choice, residency), "where rows are to live")
        self.stage, self.residency = everyone[world.rank - launched_local_rank()]
        self.choices = {"staging": self.stage, "residency": self.residency}
        self.root = Path(placement.data)

    def copy(self) -> None:
        """Stage: the first process of each node copies the shards, if that was decided."""
        if self.stage.value == "none":
            return
        self.root = staged_path(self.stage.value, self.manifest)
        if self.leads:
            data, limit_s = self.placement.data, self.placement.timeout_s
            stage(data, self.manifest, self.stage.value, timeout_s=limit_s, splits=self.names)

    def open(self) -> None:
        """Open the splits. Call it when ``copy`` has returned on every rank. What every step reads may be copied to the
        device.
        """
        source = in_memory if self.residency.value == "memory" else mapped
        self.splits = {name: Split(self.root, self.manifest, name, source) for name in self.names}
        on_device = self.residency.value == "device"
        self.resident = {name: DeviceRows(self.splits[name].check(), self.device) for name in self.read if on_device}
        self.rows = self.resident.get(self.split)
        self.guard = FileWatch(
            self.placement.data, self.manifest, self.root, mapped=source is mapped, splits=self.names
        )


def megabytes(size: int) -> str:
    """``12 MB``."""
    return f"{size / 1e6:,.0f} MB"


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
