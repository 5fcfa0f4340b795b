# SPDX-License-Identifier: Apache-2.0
"""Errors of writing: one sentence that names the file, and its exit code.

Every failure to write comes through here, from a block that knows what else the user may name (``storing``), or as the
last thing that a command or a rank does with it (``told``).
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.base.atomic import TEMPORARY_MARK
from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError

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
NOWHERE = (
    "no folder for temporary files can be written (TMPDIR, /tmp); make room there, or set TMPDIR to a folder with room"
)
NO_TEMPORARY = "No usable temporary directory"
"""How Python begins to say so; the error's number is that of a missing file."""


def refusal(error: OSError, path: str | Path, *, otherwise: str = ANOTHER, room: str = CONTINUE) -> UserError:
    """The sentence for a failure to write ``path``, or the file below it that the error itself names.

    ``otherwise`` says what else may be named, ``room`` what to do on a full disk.
    """
    named = error.filename2 if isinstance(error.filename2, str | os.PathLike) else error.filename  # a copy's target
    name = final_name(named) if isinstance(named, str | os.PathLike) else str(path)
    what = os.strerror(error.errno) if error.errno else str(error)
    if os.path.exists(name) and not (os.path.isfile(name) or os.path.isdir(name)):
        what = "a pipe or a device"
    elif error.errno == errno.EEXIST and os.path.isfile(name):
        what = "it is a file, and a directory is needed here"
    if error.errno == errno.ENOENT:
        return DataError(
            f"{missing(name)}: gone while it was needed ({what}); put it back, and run the same command to continue"
        )
    if error.errno in OTHER_KIND:
        return ConfigError(f"{name}: cannot be written ({what}); {otherwise}")
    if error.errno in NOT_ALLOWED:
        return StorageError(f"{name}: cannot be written ({what}); {otherwise}")
    return StorageError(f"{name}: cannot be written ({what}); {room}, or {otherwise}")


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
    if str(error.strerror).startswith(NO_TEMPORARY):
        return StorageError(NOWHERE)
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


def missing(path: str) -> str:
    """What somebody would have to put back for ``path`` to be there: itself, or the folder above it that is gone."""
    folder = os.path.dirname(path)
    return path if folder in ("", path) or os.path.exists(folder) else missing(folder)


def final_name(path: str | os.PathLike[str]) -> str:
    """The name that an unfinished file or folder would have had."""
    return re.sub(rf"{re.escape(TEMPORARY_MARK)}[^/]*", "", os.fspath(path))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone after the block. Raises ``StorageError`` where there is none, or no room in it."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="padless-")
    except OSError as error:
        if str(error.strerror).startswith(NO_TEMPORARY):
            raise StorageError(NOWHERE) from None
        raise refusal(error, tempfile.gettempdir(), otherwise=TMPDIR) from None
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in NO_ROOM or not str(error.filename or name).startswith(name):
                raise
            raise refusal(error, name, otherwise=TMPDIR) from None
