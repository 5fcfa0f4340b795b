# SPDX-License-Identifier: Apache-2.0
"""A small disk of its own, a tmpfs, that can be filled to the last page or the last inode at any moment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PAGE = 4096
BALLAST = ".ballast"
"""What fills the disk; no file of padless."""


class Disk:
    """A mounted tmpfs; a context manager that takes it away again."""

    def __init__(self, root: Path, megabytes: int = 48) -> None:
        """``root``: an empty directory to mount it on."""
        self.root, self.megabytes = root, megabytes

    def __enter__(self) -> Disk:
        """Mount it. Raises ``OSError`` with the reason where that is not allowed."""
        self.root.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", f"size={self.megabytes}m,mode=755", "tmpfs", str(self.root))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.root)], check=False, capture_output=True)

    def clear(self) -> None:
        """Remove all that lies on it."""
        self.make_room()
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def fill(self, left: int = 0) -> None:
        """Leave ``left`` bytes, rounded up to pages."""
        found = os.statvfs(self.root)
        size = found.f_bavail * found.f_frsize - -(-left // PAGE) * PAGE
        if size > 0:
            descriptor = os.open(self.root / BALLAST, os.O_CREAT | os.O_WRONLY)
            os.posix_fallocate(descriptor, 0, size)
            os.close(descriptor)

    def use_up_names(self) -> None:
        """Leave no inode: nothing new can be made, and what is there can still grow."""
        found = os.statvfs(self.root)
        mount("-o", f"remount,nr_inodes={found.f_files - found.f_ffree}", str(self.root))

    def make_room(self) -> None:
        """Undo ``fill`` and ``use_up_names``."""
        (self.root / BALLAST).unlink(missing_ok=True)
        mount("-o", "remount,nr_inodes=100000", str(self.root))

    def protect(self, read_only: bool) -> None:
        """Let nothing be written, or let it again."""
        mount("-o", f"remount,{'ro' if read_only else 'rw'}", str(self.root))


def mount(*arguments: str) -> None:
    """``mount``; raises ``OSError`` with what it said."""
    result = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"mount {' '.join(arguments)}: {' '.join(result.stderr.split())}")


def why_not(folder: Path) -> str | None:
    """Why no small disk can be had here; None if it can."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    try:
        with Disk(folder / "probe", 1):
            return None
    except OSError as error:
        return f"no small disk can be mounted here: {error}"
