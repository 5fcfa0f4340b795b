# SPDX-License-Identifier: Apache-2.0
"""Where a dataset's rows live during a run: in mapped files, in memory or on the device. Each decision has a reason."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from harness.config import RunConfig
from harness.data import files, staging
from harness.data.device import DeviceRows
from harness.ranks.distributed import World, launched_local_rank, launched_local_world_size
from harness.ranks.precision import Choice
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Manifest, Split, mapped

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
    local = [path for path in candidates if path and not files.is_network(files.filesystem(path))]
    itemsize = 2 if manifest.id_dtype == "uint16" else 4
    return Facts(
        kind=files.filesystem(data),
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
    if not files.is_network(facts.kind):
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
    if files.is_network(facts.kind) and not staged and copies <= MEMORY_SHARE * facts.free_memory:
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
        self.root = staging.staged_path(self.stage.value, self.manifest)
        if self.leads:
            data, limit_s = self.placement.data, self.placement.timeout_s
            staging.stage(data, self.manifest, self.stage.value, timeout_s=limit_s, splits=self.names)

    def open(self) -> None:
        """Open the splits. Call it when ``copy`` has returned on every rank. What every step reads may be copied to the
        device.
        """
        source = files.in_memory if self.residency.value == "memory" else mapped
        self.splits = {name: Split(self.root, self.manifest, name, source) for name in self.names}
        on_device = self.residency.value == "device"
        self.resident = {name: DeviceRows(self.splits[name].check(), self.device) for name in self.read if on_device}
        self.rows = self.resident.get(self.split)
        self.guard = files.FileWatch(
            self.placement.data, self.manifest, self.root, mapped=source is mapped, splits=self.names
        )


def megabytes(size: int) -> str:
    """``12 MB``."""
    return f"{size / 1e6:,.0f} MB"
