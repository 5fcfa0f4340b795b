# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file has its final name only when it is complete (law 2); a failure becomes one sentence.

Leftovers of killed processes are removed only if padless made them: the temporary name of a file or folder says so from
the first instant, and a work folder has a mark inside. ``storage_errors`` turns a failed write
into a sentence that names the file and an alternative; ``as_storage_error`` does so for errors that reach the end of a
command or rank.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from padless.core.errors import ConfigError, DataError, StorageError, UserError
from padless.core.untrusted import MOST_JSON, read_bytes, read_json, sha256_of

TEMPORARY_MARK = ".tmp-padless-"
"""An unfinished file is called ``NAME.tmp-padless-HOST-PROCESS``."""
UNFINISHED = re.compile(rf"(.+?){re.escape(TEMPORARY_MARK)}([^/\\]*)-(\d{{1,7}})(?=[/\\]|\Z)")
MARK = "job.json"
"""The file in a work folder that names the job."""
OPEN_PATHS = set[str]()
"""The temporary files and folders that this process is writing."""


def temporary_suffix() -> str:
    """The end of the names of unfinished files of this process."""
    return f"{TEMPORARY_MARK}{platform.node()}-{os.getpid()}"


def temporary_path(path: Path) -> Path:
    """The temporary name of this process for ``path``, in the same folder."""
    return path.with_name(f"{path.name}{temporary_suffix()}")


def final_of(name: str) -> str:
    """A path with the final name in place of a temporary one."""
    return UNFINISHED.sub(r"\1", name)


def sign(folder: Path, target: Path) -> None:
    """Mark a folder as the work folder of a job that makes ``target``."""
    write_json(folder / MARK, {"makes": target.name})


def is_signed(folder: Path, target: Path) -> bool:
    """Whether a folder (not a link to one) has the mark of a job that makes ``target``."""
    try:
        return not folder.is_symlink() and read_json(folder / MARK, "") == {"makes": target.name}
    except (OSError, DataError):
        return False


def contains_words(path: str | Path, words: str) -> bool:
    """Whether a regular file of a JSON's size has these words."""
    try:
        return words.encode() in read_bytes(path, MOST_JSON)
    except (OSError, DataError):
        return False


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def vanish(folder: Path) -> None:
    """Rename a folder to a temporary name, then remove it, so that a kill never leaves a partial folder of its name."""
    doomed = temporary_path(folder)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # NFS keeps a lock file that is in use; the next start removes it


def is_abandoned(name: str) -> bool:
    """Whether this is the temporary name of a process of this machine that has ended."""
    import psutil

    match = UNFINISHED.fullmatch(name)
    return match is not None and match[2] == platform.node() and not psutil.pid_exists(int(match[3]))


def sweep(path: str | Path) -> None:
    """Remove temporary files and folders that ended processes of this machine left for ``path``."""
    remove_abandoned(Path(path).parent, glob.escape(Path(path).name))


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove what ended processes of this machine left in a folder, for final names of a pattern."""
    for leftover in folder.glob(f"{pattern}{TEMPORARY_MARK}*"):
        if is_abandoned(leftover.name):
            with suppress(OSError):
                remove(leftover)


@contextmanager
def replacing(path: str | Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it to ``path``, on failure remove it.

    The directory entry is fsynced too, so the name survives a power cut. Readers see the old file or the new one.
    ``lasting=False`` does neither, for a file whose readers compare a hash.
    Raises ``OSError`` before anything is written if ``path`` is a directory, a pipe or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not (path.is_dir() and path.is_symlink()):
        problem = os.strerror(errno.EISDIR) if path.is_dir() else "a pipe or a device"  # a rename would replace it
        raise OSError(errno.EISDIR, problem, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    OPEN_PATHS.add(str(temporary))
    try:
        yield temporary
        if lasting:
            fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary.exists():
            remove(temporary)
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
            error.filename = str(path)  # the system gives it for ``open``, not for ``write``
        raise
    finally:
        OPEN_PATHS.discard(str(temporary))
    if lasting:
        fsync(path.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """As ``replacing`` for a folder; its content is fsynced too. Raises ``FileExistsError`` if ``path`` appears."""
    path = Path(path)
    sweep(path)
    with replacing(path) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process of the same number
        temporary.mkdir()
        yield temporary
        for entry in temporary.rglob("*"):
            fsync(entry)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def write_bytes(path: str | Path, data: bytes, *, lasting: bool = True) -> None:
    """Write ``data`` to ``path``, whole or not at all; ``lasting`` as in ``replacing``."""
    with replacing(path, lasting=lasting) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON. Raises ``ValueError`` for NaN, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: str | Path, line: str) -> bytes:
    """Append a line to a file, whole or not at all; returns its bytes. A full disk keeps no partial line.

    If a killed process left a last line without a newline, a newline is added first.
    """
    with open(path, "a+b", buffering=0) as file:
        old_size = os.fstat(file.fileno()).st_size
        data = f"{line}\n".encode()
        if old_size:
            file.seek(old_size - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data
        if file.write(data) != len(data):
            file.truncate(old_size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return data


def canonical_json(value: Any) -> bytes:
    """A JSON value in canonical form, for hashing: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return sha256_of(file)


def fsync(path: str | Path) -> None:
    """Flush a file or a directory entry to the disk; Windows flushes no directory, and no file that is only read."""
    if os.name == "nt" and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


ASIDE = ".before"
"""Suffix of an old directory until it is removed."""


def aside(target: Path) -> Path:
    """The name of the old directory while a new one takes its place."""
    return target.with_name(f"{target.name}{ASIDE}")


def take_place(new: Path, target: Path) -> None:
    """Rename the directory ``new`` to ``target``, the name of another directory, which is put ``aside``.

    Both must be in the same folder, which is fsynced. Raises ``OSError``.
    """
    os.rename(target, aside(target))
    os.rename(new, target)
    fsync(target.parent)


def recover(target: Path) -> None:
    """Restore ``target`` if a process was killed between the two renames. Raises ``OSError``."""
    if aside(target).is_dir() and not target.exists():
        os.rename(aside(target), target)
        fsync(target.parent)


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The disk is full, or a quota is used up."""
NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""The disk is read-only, or the user lacks the permission."""
OTHER_KIND = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP})
"""A directory in place of a file or the reverse, or an impossible name."""
GO_ON = "make room and run the same command to continue"
NAME_ANOTHER = "name a directory that can be written"
TMPDIR = "set TMPDIR to a folder with room"
"""Advice for temporary files."""


def refusal(error: OSError, path: str | Path, *, otherwise: str = NAME_ANOTHER) -> UserError:
    """The sentence for a failure to write ``path``, or to write or read the file that the error names.

    ``otherwise`` names the alternative.
    """
    failed_path = str(error.filename2 or error.filename or path)  # a copy's target comes second
    name, reason = final_of(failed_path), error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return DataError(
            f"{name}: gone while it was needed ({reason}); put it back, and run the same command to continue"
        )
    if error.errno in (errno.EACCES, errno.EPERM) and not is_readable(failed_path):
        return DataError(f"{name}: cannot be read ({reason}); get the permission from its owner, or name another")
    kind = ConfigError if error.errno in OTHER_KIND else StorageError
    advice = otherwise if error.errno in OTHER_KIND | NOT_ALLOWED else f"{GO_ON}, or {otherwise}"
    return kind(f"{name}: cannot be written ({reason}); {advice}")


def is_readable(path: str) -> bool:
    """Whether this user may read a path, or the nearest folder above it that can be seen."""
    nearest = nearest_existing(path)
    return os.access(nearest, os.R_OK | os.X_OK if nearest.is_dir() else os.R_OK)


def nearest_existing(path: str) -> Path:
    """``path``, or the nearest directory above it that is there."""
    return next(folder for folder in (Path(path), *Path(path).absolute().parents) if os.path.exists(folder))


@contextmanager
def storage_errors(path: str | Path, *, otherwise: str = NAME_ANOTHER) -> Iterator[None]:
    """Raise a failed write inside the block as the ``UserError`` of ``refusal``."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path, otherwise=otherwise) from None


INDEX_NAMES = ("dataset.json", "bundle.json", "manifest.json")
"""Of a dataset, a bundle and a checkpoint."""


def refuse_inside(key: str, path: Path) -> None:
    """Raise ``ConfigError`` for a path inside a dataset, a bundle or a checkpoint, which is moved and removed whole."""
    for folder in Path(os.path.realpath(path)).parents:
        for name in INDEX_NAMES:
            if contains_words(folder / name, '"format": "padless-'):
                kind = "checkpoint" if name == "manifest.json" else name.removesuffix(".json")
                raise ConfigError(f"{key}: {path} lies inside the {kind} {folder}; name a directory outside of it")


def check_replaced(path: Path, overwrite: bool | None) -> None:
    """Raise ``ConfigError`` for an output that is no regular file, or one with content. ``overwrite`` is the user's
    option, None where the command has none.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"--output {path}: is a folder, a link, a pipe or a device; name a file")
    if not overwrite and path.exists() and path.stat().st_size:
        advice = "set --overwrite true to replace it" if overwrite is not None else "move that file away"
        raise ConfigError(f"--output {path}: is there already; name another, or {advice}")


def as_storage_error(error: OSError) -> UserError | None:
    """The sentence for a failed write outside ``storage_errors``; None for other errors."""
    if str(error.strerror).startswith("No usable temporary directory"):  # Python raises it as FileNotFoundError
        return StorageError(f"{error.strerror}; make room there, or {TMPDIR}")
    if error.errno in NO_ROOM or (error.errno in NOT_ALLOWED and error.filename):
        return refusal(error, "standard output or a temporary file (TMPDIR, /dev/shm)")
    return None


TEMPORARY_FOLDER = "padless-"
"""Start of the name of a folder in TMPDIR."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed after the block; those of killed processes are removed before it.

    Raises ``StorageError`` if it cannot be made or is full.
    """
    with storage_errors(tempfile.gettempdir(), otherwise=TMPDIR):
        folder = tempfile.TemporaryDirectory(prefix=TEMPORARY_FOLDER, suffix=temporary_suffix())
    remove_abandoned(Path(folder.name).parent, f"{TEMPORARY_FOLDER}*")
    with folder as name:
        OPEN_PATHS.add(name)
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in NO_ROOM or not str(error.filename or name).startswith(name):
                raise
            raise refusal(error, name, otherwise=TMPDIR) from None
        finally:
            OPEN_PATHS.discard(name)


def remove_open_paths() -> None:
    """Remove the temporary files and folders of this process, which ends before their blocks do."""
    for name in [*OPEN_PATHS]:
        if name.endswith(temporary_suffix()):  # not those of a process that this one was forked from
            with suppress(OSError):
                remove(Path(name))
