# SPDX-License-Identifier: Apache-2.0
"""The output directory: who may write in it, what is there already, and how a new dataset takes its place.

A dataset that replaces another is built beside it, in ``NAME.building``, which stays when the job is interrupted. When
it is whole, the two directories exchange their names in one step, and the old one is removed last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preprocessing.base import swap
from preprocessing.base.atomic import TEMPORARY_MARK
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.locks import locked
from preprocessing.base.split_names import ALL_SPLITS
from preprocessing.base.storage import storing
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.sources import Plan
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, ShardInfo, parse_manifest, read_manifest
from preprocessing.job.provenance import BASE

WORK = ".work"
LOCK = "lock"
UNPACKED = "unpacked"
"""Folder for the unpacked copies of compressed files, below ``WORK``."""
OURS = {MANIFEST, VOCABULARY, WORK, *ALL_SPLITS}
OF_A_RUN = ("config.yaml", "status.json")
"""What every run directory has from its first second on."""
REPLACE = "choose another --output, or replace it with --overwrite true"


def build_directory(config: PreprocessConfig) -> Path:
    """Where the dataset is built: the output itself, or a local directory if the output is remote."""
    if not addresses.is_remote(config.output):
        return Path(config.output)
    if config.staging:
        return Path(config.staging)
    return remote.cache_folder() / "building" / hashlib.sha256(config.output.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Place:
    """Where a dataset is built, and where it lies in the end."""

    root: Path
    """The directory that is written in."""
    target: Path
    """``root`` itself, or the directory with the older dataset that it will replace."""

    @property
    def beside(self) -> bool:
        """Whether it is built beside an older dataset."""
        return self.root != self.target


def own_name(path: Path) -> Path:
    """A path that ends in the directory's own name: no link to it, and neither ``.`` nor ``..``."""
    return path.resolve() if path.is_symlink() or path.name in ("", "..") else path


def beside(target: Path) -> Path:
    """Where the dataset is built that will replace the one in ``target``."""
    return target.with_name(f"{target.name}.building")


@contextmanager
def claimed(config: PreprocessConfig) -> Iterator[Place]:
    """Hold the output against other runs, and what an interrupted one left in order.

    Raises ``StorageError`` where nothing can be written, ``UserError`` while another run writes.
    """
    target = own_name(build_directory(config))
    with naming(target):
        swap.recover(target)
    with writable(target):
        clear_leftovers(target)
        if not (config.overwrite and (target / MANIFEST).exists()):
            yield Place(target, target)
            return
        if os.path.ismount(target):
            raise ConfigError(
                f"output: {target} is a mount point, so no new dataset can take its place in one step; "
                "name a directory below it"
            )
        with writable(beside(target)):  # after the exchange of names this lock holds what is then the output
            yield Place(beside(target), target)


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Let one run at a time write below ``root``. The lock ends with the process that holds it, however that ends.

    Raises ``StorageError`` where nothing can be written, ``UserError`` while another run writes.
    """
    with naming(root):
        refuse_foreign(root)
        refuse_inside_run(root)
        refusal = UserError(f"{root}: another run is writing this dataset; wait for it, or stop it")
        with locked(root / WORK / LOCK, 0, refusal):
            yield


@contextmanager
def naming(root: Path) -> Iterator[None]:
    """Turn a failure to write into a sentence that names the file."""
    with storing(root, otherwise="name another directory with --output"):
        yield


def refuse_foreign(root: Path) -> None:
    """Do not write a dataset among files that are not one's."""
    if root.is_dir():
        strangers = sorted(path.name for path in root.iterdir() if path.name not in OURS)
        ours = any((root / name).exists() for name in (MANIFEST, WORK))
        if strangers and not ours:
            raise ConfigError(
                f"output: {root}: holds {strangers[0]!r} and no dataset; name an empty or a new directory"
            )


def refuse_inside_run(root: Path) -> None:
    """Do not begin a dataset inside a run directory: whoever moves or removes the run takes along what lies in it."""
    if any((root / name).exists() for name in (MANIFEST, WORK)):
        return
    inside = next((one for one in root.resolve().parents if all((one / name).is_file() for name in OF_A_RUN)), None)
    if inside is not None:
        raise ConfigError(f"output: {root}: lies inside the run {inside}; name a directory outside of it")


def existing(address: str, overwrite: bool) -> Manifest | None:
    """The manifest that is there. Raises ``ConfigError`` for one that cannot be read, unless it may be replaced."""
    try:
        if addresses.is_remote(address):
            content = remote.manifest_bytes(address)
            return None if content is None else parse_manifest(content, remote.join(address, MANIFEST))
        return read_manifest(address) if Path(address, MANIFEST).exists() else None
    except DataError as error:
        if overwrite:
            return None
        raise ConfigError(f"{error}; {REPLACE}") from None


def is_current(
    manifest: Manifest, config: PreprocessConfig, text: dict[str, Any], plans: list[Plan], on_base: dict[str, Any]
) -> bool:
    """Whether the dataset that is there is what this run would write; ``on_base`` are the facts of its base.

    Raises ``ConfigError`` if it is not and may not be replaced either.
    """
    known = manifest.provenance
    before = [entry.get("fingerprint") for entry in known.get("sources", [])]
    unchanged = before == [plan.fingerprint for plan in plans]
    counted = manifest.statistics.get("vocabulary", {}).get("tokens_counted", 0)
    config = replace(config, vocabulary=config.vocabulary.of(counted))
    same_base = known.get(BASE) == on_base.get(BASE)
    if known.get("config") == config.deciding() and manifest.text == text and unchanged and same_base:
        return True
    if not config.overwrite:
        other = "of another configuration" if unchanged else "made of another source, or of one that has changed since"
        raise ConfigError(f"output: {config.output}: holds a dataset {other}; {REPLACE}")
    return False


def remove_stale_shards(root: Path, splits: dict[str, list[ShardInfo]]) -> None:
    """Shards of an earlier configuration do not stay beside a manifest that does not name them."""
    named = {root / info.path for infos in splits.values() for info in infos}
    for split in ALL_SPLITS:
        for path in (root / split).glob("*.arrow*"):
            if path not in named:
                path.unlink()
        if (root / split).is_dir() and not any((root / split).iterdir()):
            (root / split).rmdir()
    for path in root.glob(f"*{TEMPORARY_MARK}*"):
        path.unlink()


def finish(place: Place, config: PreprocessConfig, fresh: bool) -> str | None:
    """Publish a fresh dataset or give it its place. Then remove what only the building of it needed.

    Returns a line for people where something was left.
    """
    if addresses.is_remote(config.output):
        if fresh:
            remote.publish(place.root, config.output)
        for name in OURS:
            shutil.rmtree(place.root / name, ignore_errors=True)
            if (place.root / name).is_file():
                (place.root / name).unlink()
        return None
    if fresh and place.beside:
        shutil.copymode(place.target, place.root)
        replaced(swap.take_place(place.root, place.target), place.target)
    shutil.rmtree(place.target / WORK, ignore_errors=True)
    left = beside(place.target)
    if holds_work(left):
        return f"{left}: kept: unfinished work for another configuration; remove it if that dataset is not wanted"
    if place.beside and left.is_dir():
        discard(left)
    return None


def holds_work(root: Path) -> bool:
    """Whether a directory holds the work of a job that was interrupted."""
    work = root / WORK
    return work.is_dir() and any(path.name not in (LOCK, UNPACKED) for path in work.iterdir())


def clear_leftovers(target: Path) -> None:
    """Do what a job would still have done that was killed after its dataset was whole."""
    if not (target / MANIFEST).exists():
        return
    for path in (target / WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    for left in (swap.aside(target), beside(target)):
        if any((left / name).exists() for name in (MANIFEST, WORK)) and not holds_work(left):
            replaced(left, target)
        elif left.is_dir() and not any(left.iterdir()):  # killed just before its last step
            left.rmdir()


def replaced(old: Path, target: Path) -> None:
    """Remove a dataset that another one has replaced; what else lay in its directory goes to the new one."""
    for path in sorted(old.iterdir()):
        if path.name not in OURS and TEMPORARY_MARK not in path.name and not (target / path.name).exists():
            os.rename(path, target / path.name)
    discard(old)


def discard(root: Path) -> None:
    """Remove a dataset or its beginnings: the manifest first, and last what says that the directory is ours."""
    (root / MANIFEST).unlink(missing_ok=True)
    (root / VOCABULARY).unlink(missing_ok=True)
    for path in root.glob(f"*{TEMPORARY_MARK}*"):
        path.unlink()
    for name in (*ALL_SPLITS, WORK):
        if (root / name).is_dir():
            shutil.rmtree(root / name)
    if not any(root.iterdir()):
        root.rmdir()
