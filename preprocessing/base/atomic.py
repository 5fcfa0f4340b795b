# SPDX-License-Identifier: Apache-2.0
"""Writing: files appear whole under their final name, or not at all (law 2); a failure is one sentence.

What a killed process leaves is removed only where it is known to be ours: an unfinished file by its name, a folder of
work by the mark in it. The sentence for a failure to write names the file; it is made by a block that knows what else
the user may name (``storing``), or as the last thing that a command or a rank does with it (``told``).
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError
from preprocessing.base.untrusted import open_regular, read_json, sha256_of

TEMPORARY_MARK = ".tmp-"
"""An unfinished file is called ``NAME.tmp-HOST-PROCESS``."""
UNFINISHED = re.compile(rf"(.+?){re.escape(TEMPORARY_MARK)}([^/]*)-(\d{{1,7}})")
MARK = "job.json"
"""The file in a folder of work that says which job made it."""
ENDS = 1 << 16
"""Bytes at either end of a file that are searched for what it says of itself."""
UNNAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Failures that can only be those of a write."""


def unfinished(path: Path) -> Path:
    """The name, beside its final one, of what this process has not finished."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{os.uname().nodename}-{os.getpid()}")


def final_of(name: str) -> str | None:
    """The name that an unfinished file or folder was to have; None for what has the name of none."""
    found = UNFINISHED.fullmatch(name)
    return None if found is None else found[1]


def sign(folder: Path, target: Path) -> None:
    """Mark a folder as the work of a job that makes ``target``. A copy of the folder does not count as marked."""
    write_json(folder / MARK, {"makes": target.name, "inode": folder.stat().st_ino})


def is_signed(folder: Path, target: Path) -> bool:
    """Whether a folder, no link to one, is the work of a job that makes ``target``."""
    try:
        mark = {"makes": target.name, "inode": folder.stat().st_ino}
        return not folder.is_symlink() and read_json(folder / MARK, "") == mark
    except (OSError, DataError):
        return False


def says(path: str | Path, words: str) -> bool:
    """Whether a regular file has these words near its beginning or its end, as a file of ours says what it is."""
    try:
        with open_regular(path) as file:
            start = file.read(ENDS)
            file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
            return words.encode() in start or words.encode() in file.read(ENDS)
    except (OSError, DataError):
        return False


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def vanish(folder: Path) -> None:
    """Remove a folder of ours in a way that never leaves its name on a part of it."""
    gone = unfinished(folder)
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)  # NFS keeps a lock that is held; the next start sweeps it


def is_abandoned(name: str) -> bool:
    """Whether an unfinished file of this name was left by a process of this machine that is no more."""
    import psutil

    found = UNFINISHED.fullmatch(name)
    return found is not None and found[2] == os.uname().nodename and not psutil.pid_exists(int(found[3]))


def sweep(path: str | Path) -> None:
    """Remove what killed processes of this machine have left of a file or folder that was to have this name."""
    path = Path(path)
    for left in path.parent.glob(f"{glob.escape(path.name)}{TEMPORARY_MARK}*"):
        if is_abandoned(left.name) and final_of(left.name) == path.name:
            with suppress(OSError):
                remove(left)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success fsync it and rename it to ``path``, on failure remove it.

    The directory entry is fsynced too, so the name survives a power cut. Readers see the old file or the new one.
    Raises ``OSError`` before anything is written where the name is that of a directory, a pipe or a device.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not (path.is_dir() and path.is_symlink()):
        what = os.strerror(errno.EISDIR) if path.is_dir() else "a pipe or a device"  # which would be gone
        raise OSError(errno.EISDIR, what, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        name(error, path)
        raise
    fsync(path.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; on success fsync all in it and give it the name ``path``, on failure
    remove it. Raises ``FileExistsError`` where that name is taken, by then too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = unfinished(path)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process with this number that was killed
    temporary.mkdir()
    try:
        yield temporary
        for inside in temporary.rglob("*"):
            fsync(inside)
        fsync(temporary)
        if path.exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        os.rename(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        name(error, path)
        raise
    fsync(path.parent)


def name(error: BaseException, path: str | Path) -> None:
    """Say which file a failure to write is about: the system says so when a file is opened, not when it is written."""
    if isinstance(error, OSError) and error.errno in UNNAMED and error.filename is None:
        error.filename = str(path)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that the name never holds a part of it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a file, whole or not at all: one that a full disk has cut is taken away again.

    A line before it that a killed process has left without an end is ended.
    """
    with open(path, "a+b", buffering=0) as file:
        before = os.fstat(file.fileno()).st_size
        data = f"{line}\n".encode()
        if before and os.pread(file.fileno(), 1, before - 1) != b"\n":
            data = b"\n" + data
        if file.write(data) != len(data):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value, for hashing: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return sha256_of(file)


def fsync(path: str | Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        name(error, path)
        raise
    finally:
        os.close(descriptor)


AT_FDCWD = -100
EXCHANGE = 2
"""``RENAME_EXCHANGE`` of Linux."""
ASIDE = ".before"
"""How the name ends under which an old directory waits for its removal."""
NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system answers that cannot exchange names."""


def aside(target: Path) -> Path:
    """Where the old directory stands while two renames take the place of an exchange."""
    return target.with_name(f"{target.name}{ASIDE}")


def take_place(new: Path, target: Path) -> Path:
    """Give the directory ``new`` the name ``target``, which another directory has; returns where that one lies now.

    Both must lie in the same folder. The names are on the disk when this returns. Raises ``OSError``.
    """
    if exchanged(new, target):
        fsync(target.parent)
        return new
    os.rename(target, aside(target))
    os.rename(new, target)
    fsync(target.parent)
    return aside(target)


def recover(target: Path) -> None:
    """Give ``target`` its name back if a process was killed between the two renames. Raises ``OSError``."""
    if aside(target).is_dir() and not target.exists():
        os.rename(aside(target), target)
        fsync(target.parent)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where that cannot be done. Raises ``OSError``."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    failed = library.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE)
    if failed and (number := ctypes.get_errno()) not in NOT_HERE:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The disk is full, or a quota is used up."""
NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""The disk is read-only, or the place is somebody else's."""
OTHER_KIND = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP})
"""What is there is no file, or no directory, as it was wanted; or the name cannot be one."""
CONTINUE = "make room and run the same command to continue"
ANOTHER = "name a directory that can be written"
TMPDIR = "set TMPDIR to a folder with room"
"""What else may be named for a temporary file."""


def refusal(error: OSError, path: str | Path, *, otherwise: str = ANOTHER, room: str = CONTINUE) -> UserError:
    """The sentence for a failure to write ``path``, or the file below it that the error itself names.

    ``otherwise`` says what else may be named, ``room`` what to do on a full disk.
    """
    named = str(error.filename2 or error.filename or path)  # a copy's target comes second
    name, what = UNFINISHED.sub(r"\1", named), error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return DataError(
            f"{name}: gone while it was needed ({what}); put it back, and run the same command to continue"
        )
    kind = ConfigError if error.errno in OTHER_KIND else StorageError
    mend = otherwise if error.errno in OTHER_KIND | NOT_ALLOWED else f"{room}, or {otherwise}"
    return kind(f"{name}: cannot be written ({what}); {mend}")


@contextmanager
def storing(path: str | Path, *, otherwise: str = ANOTHER, room: str = CONTINUE) -> Iterator[None]:
    """Turn a failure to write inside the block into the ``UserError`` that ``refusal`` makes of it."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path, otherwise=otherwise, room=room) from None


def check_replaced(path: Path, overwrite: bool, is_ours: Callable[[], bool]) -> None:
    """Raise ``ConfigError`` for an output that is there, holds something, and was not written by this command before.

    ``overwrite`` is what the user set, ``is_ours`` looks at the file.
    """
    if not overwrite and path.is_file() and path.stat().st_size and not is_ours():
        raise ConfigError(
            f"--output {path}: is there already, and holds something else; name another, or set --overwrite true to "
            "replace it"
        )


def told(error: OSError) -> UserError | None:
    """The sentence for an error that no block has made one of; None for what is no failure to write."""
    if str(error.strerror).startswith("No usable temporary directory"):  # as Python says it, as of a missing file
        return StorageError(f"{error.strerror}; make room there, or {TMPDIR}")
    if error.errno in NO_ROOM or (error.errno in NOT_ALLOWED and error.filename):
        if is_about_output(error):
            return refusal(error, "standard output", otherwise="send the output elsewhere")
        return refusal(error, "a temporary file (TMPDIR, /dev/shm)")
    return None


def is_about_output(error: OSError) -> bool:
    """Whether it is standard output that takes no more: then it does not take an end of line either."""
    if error.filename or sys.stdout.isatty():
        return False
    try:
        print(flush=True)
    except OSError:
        return True
    return False


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone after the block. Raises ``StorageError`` where it cannot be made, or has no room."""
    with storing(tempfile.gettempdir(), otherwise=TMPDIR):
        folder = tempfile.TemporaryDirectory(prefix="padless-")
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in NO_ROOM or not str(error.filename or name).startswith(name):
                raise
            raise refusal(error, name, otherwise=TMPDIR) from None
