# SPDX-License-Identifier: Apache-2.0
"""A whole directory takes the place of another in one step, so that at any instant one of them is there (law 2).

Linux and macOS can exchange two names in one call. A file system that cannot (NFS) is given two renames instead: the
old directory steps aside as ``NAME.before``, then the new one gets the name. A process that is killed just between the
two leaves the old one there, whole, and :func:`recover` gives it its name back.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from preprocessing.base.atomic import fsync

AT_FDCWD = -100
EXCHANGE = 2
"""``RENAME_EXCHANGE`` of Linux, and ``RENAME_SWAP`` of macOS."""
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
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, EXCHANGE)
    else:
        return False
    if failed and (number := ctypes.get_errno()) not in NOT_HERE:
        raise OSError(number, os.strerror(number), str(one), None, str(other))
    return not failed
