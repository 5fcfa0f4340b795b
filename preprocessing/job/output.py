# SPDX-License-Identifier: Apache-2.0
"""The output directory: locks it, checks what it holds, and replaces an older dataset.

A replacement is built in ``NAME.building``, which stays when the job is interrupted. When it is complete, the two
directories exchange names in one step; then the old one is removed. Both are signed (``atomic.sign``); an unsigned
directory of such a name belongs to the user and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import is_lock, locked
from preprocessing.base.split_names import ALL_SPLITS
from preprocessing.base.terminal import public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.shards import (
    FORMAT,
    MANIFEST,
    VOCABULARY,
    Manifest,
    read_manifest,
)
from preprocessing.job.count import BASE
from preprocessing.job.executors import Share

WORK = ".work"
LOCK = "lock"
SHARE_LOCK_S = 5.0
"""Longest wait for a lock that other shares hold for a moment: to see whether a share runs, and at their end."""
_NAMES = f"{MANIFEST}|{INDEX}|{VOCABULARY}"
OURS = re.compile(rf"{_NAMES}|({'|'.join(ALL_SPLITS)})/\d{{5,}}(-f\d+)?-w\d+\.arrow")
"""The files of a dataset, below its directory."""
naming = partial(storing, otherwise="name another directory with --output")
REPLACE = "choose another --output, or replace it with --overwrite true"


def beside(target: Path) -> Path:
    """The directory in which a replacement for ``target`` is built."""
    return target.with_name(f"{target.name}.building")


@contextmanager
def claimed(config: PreprocessConfig) -> Iterator[tuple[Path, Path]]:
    """Lock the output, and finish or remove what an interrupted run left.

    Gives the directory to write in and the dataset's final directory; they differ if an older dataset is replaced.

    Raises ``StorageError`` where nothing can be written, ``UserError`` while another run writes.
    """
    target = Path(config.output)
    if addresses.is_remote(config.output):
        name = hashlib.sha256(config.output.encode()).hexdigest()[:32]
        target = remote.cache_folder() / "building" / name
    if target.is_symlink() or target.name in ("", ".."):
        target = Path(os.path.realpath(target))  # Path.resolve raises RuntimeError for a link to itself
    if re.search(r"[?\\]", os.path.abspath(target)):
        raise ConfigError(f"output: {target}: DuckDB, which assigns rows, takes no ? and no \\ in a path; name another")
    with naming(target):
        if is_left(atomic.aside(target), target):
            atomic.recover(target)
        for left in (atomic.aside(target), beside(target)):
            atomic.sweep(left)
    share = Share.parse(config.executor.share, target / WORK)
    if share.count > 1:
        try:
            with writable(target, share):
                yield target, target
        finally:
            remove_work(target)
        return
    with writable(target, share):
        clear_leftovers(target)
        if not (config.overwrite and (target / MANIFEST).exists()):
            yield target, target
            return
        if os.path.ismount(target):
            raise ConfigError(
                f"output: {target} is a mount point, so no new dataset can take its place in one step; name a "
                "directory below it"
            )
        make_beside(target)
        with writable(beside(target), share):  # after the exchange of names this lock is on the output
            yield beside(target), target


@contextmanager
def writable(root: Path, share: Share) -> Iterator[None]:
    """Let one run at a time write below ``root``, or each share of one. The lock ends with its process.

    Raises ``StorageError`` where nothing can be written, ``UserError`` while another run writes.
    """
    with naming(root):
        atomic.sweep(root / WORK)
        refuse_foreign(root)
        refusal = UserError(f"{root}: another run is writing this dataset; wait for it, or stop it")
        missing = [folder for folder in (root, *root.parents) if not folder.exists()]
        is_shared = share.count > 1
        limit_s = SHARE_LOCK_S if is_shared else 0
        if is_shared:
            make_work(root)
        with ExitStack() as locks:
            locks.enter_context(locked(root / WORK / LOCK, limit_s, refusal, shared=is_shared))
            if is_shared:
                refusal = UserError(f"{root}: another command makes share {share} of this dataset")
                locks.enter_context(locked(share.lock_of(share.index), limit_s, refusal))
            try:
                yield
            except BaseException:
                if not is_shared:
                    discard_empty(root, missing)
                raise


def check_shares(work: Path, settings: Any) -> None:
    """Raise ``ConfigError`` if the shares that work in a folder have other settings, or another number, than these."""
    path, text = work / "shares.json", json.dumps(settings, sort_keys=True)
    temporary = atomic.unfinished(path)
    temporary.write_text(text)
    with suppress(FileExistsError):  # another share was first
        os.link(temporary, path)
    temporary.unlink()
    if path.read_text() != text:
        problem = f"shares with other settings, or another number of them, work in {work}"
        raise ConfigError(f"executor.share: {problem}; give all the same keys, or remove that folder")


def discard_empty(root: Path, missing: Sequence[Path]) -> None:
    """Remove the lock of a job that was refused before it made anything, and the folders that were ``missing`` before
    it, ``root`` and those above.
    """
    work = root / WORK
    if any(path.name not in (LOCK, atomic.MARK) for path in work.rglob("*") if not path.is_dir()):
        return
    is_new = root in missing or (work / atomic.MARK).exists()
    with suppress(OSError):  # other files are in a folder by now
        atomic.vanish(root if is_new and os.listdir(root) == [WORK] else work)
        for folder in missing[1:]:
            folder.rmdir()


def make_work(root: Path) -> None:
    """Make the signed work folder of shares, unless it exists: a lock that is shared names no process."""
    work = root / WORK
    try:
        with atomic.new_folder(work) as made:
            atomic.sign(made, root)
    except OSError:
        if not work.is_dir():
            raise


def remove_work(target: Path) -> None:
    """Remove what the shares of a dataset needed, if it is complete and none of them runs any more."""
    with suppress(UserError), writable(target, Share()):
        if (target / MANIFEST).exists():
            clear_leftovers(target)
            atomic.vanish(target / WORK)


def make_beside(target: Path) -> None:
    """Make the signed directory for a replacement of ``target``, unless it exists.

    Raises ``ConfigError`` for an unsigned directory of that name.
    """
    root = beside(target)
    if is_left(root, target):
        return
    if os.path.lexists(root):
        raise ConfigError(
            f"output: {root}: is where the new dataset would be built, and not of an earlier run of this command; "
            "rename it, or name another --output"
        )
    with naming(root), atomic.new_folder(root) as made:
        (made / WORK).mkdir()
        atomic.sign(made / WORK, target)


def is_left(root: Path, target: Path) -> bool:
    """Whether a job that replaces ``target`` made a directory, or put it aside."""
    return not root.is_symlink() and atomic.is_signed(root / WORK, target)


def refuse_foreign(root: Path) -> None:
    """Raise ``ConfigError`` for a directory with other files or links in it."""
    work = root / WORK
    # a full disk leaves an empty lock
    strange = os.path.lexists(work) and (
        not work.is_dir() or any(path.name != LOCK or path.stat().st_size for path in work.iterdir())
    )
    others = root.is_dir() and any(atomic.final_of(path.name) != WORK for path in root.iterdir())
    # last, since another share may begin at the same moment
    begun = not work.is_symlink() and (is_lock(work / LOCK) or (work / atomic.MARK).is_file())
    if not begun and (strange or (others and not atomic.says(root / MANIFEST, FORMAT))):
        raise ConfigError(f"output: {root}: holds other files, and no dataset; name an empty or a new directory")


def existing(address: str, overwrite: bool) -> Manifest | None:
    """The manifest that is there. Raises ``ConfigError`` for one that cannot be read, unless it may be replaced."""
    try:
        if addresses.kind(remote.join(address, MANIFEST)) == FileType.NotFound:
            return None
        return read_manifest(remote.local(address))
    except DataError as error:
        if overwrite:
            return None
        raise ConfigError(f"{error}; {REPLACE}") from None


def is_current(
    manifest: Manifest,
    config: PreprocessConfig,
    text: dict[str, Any],
    fingerprints: Sequence[dict[str, str]],
    on_base: dict[str, Any],
) -> bool:
    """Whether the existing dataset is what this run would write, from files with these ``fingerprints``; ``on_base``:
    facts of its base vocabulary.

    Raises ``ConfigError`` if it is not and may not be replaced.
    """
    known = manifest.provenance
    unchanged = [entry.get("fingerprint") for entry in known.get("sources", [])] == list(fingerprints)
    counted = manifest.statistics.get("vocabulary", {}).get("tokens_counted", 0)
    wanted = public_values(replace(config, vocabulary=config.vocabulary.resolve_min_count(counted)).deciding())
    found = known.get("config"), manifest.text, known.get(BASE)
    if unchanged and found == (wanted, text, on_base.get(BASE)):
        return True
    if not config.overwrite:
        other = "of another configuration" if unchanged else "made of another source, or of one that has changed since"
        raise ConfigError(f"output: {config.output}: holds a dataset {other}; {REPLACE}")
    return False


def is_ours(name: str) -> bool:
    """Whether a relative path is that of a dataset's file, or of the unfinished copy of one."""
    return OURS.fullmatch(atomic.final_of(name)) is not None


def remove_files(root: Path, kept: Collection[str] = ()) -> None:
    """Remove a dataset's files, its manifest first, except ``kept``; other files stay."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if is_ours(name) and name not in kept and path.is_file():
            path.unlink()
    for split in ALL_SPLITS:
        with suppress(OSError):  # it holds other files, or is not there
            (root / split).rmdir()


def finish(root: Path, target: Path, config: PreprocessConfig, fresh: bool) -> str | None:
    """Publish a new dataset or move it into place, then remove temporary files.

    Returns a message if unfinished work is left.
    """
    if Share.parse(config.executor.share).count > 1:
        return None  # the last share to end removes what they needed
    if addresses.is_remote(config.output):
        if fresh:
            remote.publish(root, config.output)
        remove_files(root)
        atomic.vanish(root / WORK)
        return None
    if fresh and root != target:
        shutil.copymode(target, root)
        atomic.sign(target / WORK, target)
        atomic.take_place(root, target)
    clear_leftovers(target)
    atomic.vanish(target / WORK)
    left = beside(target)
    kept = f"{left}: kept: unfinished work for another configuration; remove it if that dataset is not wanted"
    return kept if is_left(left, target) else None


def holds_work(root: Path) -> bool:
    """Whether a directory holds the work of an interrupted job."""
    work = root / WORK
    return work.is_dir() and any(path.name not in (LOCK, atomic.MARK) for path in work.iterdir())


def clear_leftovers(target: Path) -> None:
    """Remove what a job needed until its dataset was complete, and a replaced dataset."""
    if not (target / MANIFEST).exists():
        return
    for path in (target / WORK).iterdir():
        if path.name != LOCK:
            atomic.remove(path)
    for left in (atomic.aside(target), beside(target)):
        if is_left(left, target) and not holds_work(left):
            replaced(left, target)


def replaced(old: Path, target: Path) -> None:
    """Remove a replaced dataset; other files in its directory move to the new one."""
    for path in sorted(old.rglob("*")):
        name = path.relative_to(old)
        ours = is_ours(name.as_posix()) or atomic.final_of(name.parts[0]) == WORK
        if not ours and (path.is_symlink() or not path.is_dir()) and not os.path.lexists(target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target / name)
    atomic.vanish(old)
