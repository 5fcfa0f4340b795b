# SPDX-License-Identifier: Apache-2.0
"""The output directory: locks it, checks what it holds, and replaces an older dataset.

A replacement is built in ``NAME.building``, which stays when the job is interrupted. When it is complete, two renames
put the old directory aside as ``NAME.before`` and the new one in its place; then the old one is removed. Both are
signed (``atomic.sign``); an unsigned directory of such a name is the user's and is left unchanged.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import ConfigError, DataError, UserError
from padless.core.jobs import LOCK, Share, claim_folder
from padless.core.split_names import ALL_SPLITS
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import FORMAT, MANIFEST, VOCABULARY, Manifest, read_manifest
from preprocessing.pipeline.parts import hash_of

WORK = ".work"
SHARE_LOCK_S = 5.0
"""Longest wait of a share for a lock that a command holds for a moment."""
_NAMES = f"{MANIFEST}|{INDEX}|{VOCABULARY}"
DATASET_FILES = re.compile(rf"{_NAMES}|({'|'.join(ALL_SPLITS)})/\d{{5,}}(-f\d+)?-w\d+\.arrow")
"""The files of a dataset, below its directory."""
storing_output = partial(storage_errors, otherwise="name another directory with --output")
REPLACE = "choose another --output, or replace it with --overwrite true"


def building_path(target: Path) -> Path:
    """The directory in which a replacement for ``target`` is built."""
    return target.with_name(f"{target.name}.building")


@contextmanager
def claim_output(config: PreprocessConfig) -> Iterator[tuple[Path, Path]]:
    """Lock the output, and finish or remove what an interrupted run left.

    Gives the directory to write in and the dataset's final directory; they differ if an older dataset is replaced.
    Raises ``ConfigError`` for what is no directory for it, ``StorageError`` where nothing can be written, ``UserError``
    while another run writes.
    """
    target, share = Path(config.output), Share.parse(config.executor.share)
    if target.is_symlink() or target.name in ("", ".."):
        target = Path(os.path.realpath(target))  # Path.resolve raises RuntimeError for a link to itself
    if not target.name:
        raise ConfigError(f"output: {target}: the root of the file system is no dataset; name a directory below it")
    atomic.refuse_inside("output", target)
    with storing_output(target):
        if is_leftover(atomic.aside(target), target):
            atomic.recover(target)
        for leftover in (atomic.aside(target), building_path(target)):
            atomic.sweep(leftover)
    if share.count > 1:
        try:
            with lock_directory(target, share):
                yield target, target
        finally:
            remove_work(target)
        return
    with lock_directory(target, share):
        clear_leftovers(target)
        if not (config.overwrite and (target / MANIFEST).exists()):
            yield target, target
            return
        make_building(target)
        with lock_directory(building_path(target), share):  # after the renames this lock is on the output
            yield building_path(target), target


@contextmanager
def lock_directory(root: Path, share: Share) -> Iterator[None]:
    """Let one run at a time write below ``root``, or each share of one. The lock ends with its process.

    Raises ``StorageError`` where nothing can be written, ``UserError`` while another run writes.
    """
    with storing_output(root):
        refusal = UserError(f"{root}: another run is writing this dataset; wait for it, or stop it")
        is_new, is_shared = not root.exists(), share.count > 1
        refuse_foreign(root)
        with claim_folder(root / WORK, root, share, SHARE_LOCK_S, refusal):
            try:
                yield
            except BaseException:
                if not is_shared and not holds_work(root):  # it was refused before it made anything
                    with suppress(OSError):  # other files are in a folder by now
                        atomic.vanish(root / WORK)
                        if is_new:
                            root.rmdir()
                raise


def check_shares(work: Path, settings: Any) -> None:
    """Raise ``ConfigError`` if another share works below ``work`` with other settings (a value of JSON)."""
    marker = work / f"shares-{hash_of(settings)}"
    marker.touch()
    if len([*work.glob("shares-*")]) > 1:
        marker.unlink()
        problem = f"shares with other settings, or another number of them, work in {work}"
        raise ConfigError(f"executor.share: {problem}; give all the same keys, or remove that folder")


def remove_work(target: Path) -> None:
    """Remove what the shares of a dataset needed, if it is complete and none of them runs any more."""
    with suppress(UserError), lock_directory(target, Share()):
        if (target / MANIFEST).exists():
            finish(target, target, is_fresh=False)


def make_building(target: Path) -> None:
    """Make the signed directory for a replacement of ``target``, unless it exists.

    Raises ``ConfigError`` for an unsigned directory of that name.
    """
    root = building_path(target)
    if is_leftover(root, target):
        return
    with suppress(OSError):  # an empty one: its job was stopped by a full disk before it made anything
        root.rmdir()
    if os.path.lexists(root):
        problem = "is where the new dataset would be built, and not of an earlier run of this command"
        raise ConfigError(f"output: {root}: {problem}; rename it, or name another --output")
    with storing_output(root), atomic.new_folder(root) as folder:
        (folder / WORK).mkdir()
        atomic.sign(folder / WORK, target)


def is_leftover(root: Path, target: Path) -> bool:
    """Whether a job that replaces ``target`` made a directory, or put it aside."""
    return not root.is_symlink() and atomic.is_signed(root / WORK, target)


def refuse_foreign(root: Path) -> None:
    """Raise ``ConfigError`` for a directory with other files or links in it."""
    work = root / WORK
    has_work = os.path.lexists(work)
    has_others = root.is_dir() and any(atomic.final_of(path.name) != WORK for path in root.iterdir())
    # last, since another share may begin at the same moment
    is_begun = not work.is_symlink() and (work / atomic.MARK).is_file()
    if not is_begun and (has_work or (has_others and not atomic.contains_words(root / MANIFEST, FORMAT))):
        raise ConfigError(f"output: {root}: holds other files, and no dataset; name an empty or a new directory")


def read_existing(target: Path, overwrite: bool) -> Manifest | None:
    """The manifest that is there. Raises ``ConfigError`` for one that cannot be read, unless it may be replaced."""
    try:
        return read_manifest(target) if (target / MANIFEST).exists() else None
    except DataError as error:
        if overwrite:
            return None
        raise ConfigError(f"{error}; {REPLACE}") from None


def is_of_dataset(name: str) -> bool:
    """Whether a relative path is that of a dataset's file, or of the unfinished copy of one."""
    return DATASET_FILES.fullmatch(atomic.final_of(name)) is not None


def remove_files(root: Path, needed: Collection[str]) -> None:
    """Remove a dataset's files, its manifest first, except those that are ``needed``; other files stay."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if is_of_dataset(name) and name not in needed and path.is_file():
            path.unlink()
    for split in ALL_SPLITS:
        with suppress(OSError):  # it holds other files, or is not there
            (root / split).rmdir()


def finish(root: Path, target: Path, *, is_fresh: bool) -> None:
    """Move a new dataset into place, then remove what the job needed."""
    if is_fresh and root != target:
        shutil.copymode(target, root)
        atomic.take_place(root, target)
    clear_leftovers(target)
    atomic.vanish(target / WORK)


def holds_work(root: Path) -> bool:
    """Whether a directory holds the work of an interrupted job."""
    files = (path for path in (root / WORK).rglob("*") if not path.is_dir())
    return any(path.name not in (LOCK, atomic.MARK) for path in files)


def clear_leftovers(target: Path) -> None:
    """Remove what a job needed until its dataset was complete, and a replaced dataset."""
    if not (target / MANIFEST).exists():
        return
    for path in (target / WORK).iterdir():
        if path.name not in (LOCK, atomic.MARK):
            atomic.remove(path)
    for leftover in (atomic.aside(target), building_path(target)):
        if is_leftover(leftover, target) and not holds_work(leftover):
            remove_replaced(leftover, target)


def remove_replaced(old: Path, target: Path) -> None:
    """Remove a replaced dataset; other files in its directory move to the new one."""
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old)
        is_made = is_of_dataset(name.as_posix()) or atomic.final_of(name.parts[0]) == WORK
        if not is_made and (path.is_symlink() or not path.is_dir()) and not os.path.lexists(target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target / name)
    atomic.vanish(old)
