# SPDX-License-Identifier: Apache-2.0
"""A small disk of its own, a tmpfs, that can be filled at any moment; and the writes of a process, seen as they come.

Python tells of its own calls (audit events); what Arrow, safetensors and torch open by themselves is seen by wrapping
the few calls that padless has of each.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


WRITES = os.O_WRONLY | os.O_RDWR
Opened = Callable[[str, str], None]
"""Called with ``file`` or ``folder`` and a path, just before it is opened or made."""
NATIVE = (
    ("pyarrow", "OSFile"),
    ("pyarrow.parquet", "ParquetWriter.__init__"),
    ("safetensors.torch", "save_file"),
    ("torch.profiler", "profile.export_chrome_trace"),
)
"""Calls that open a file outside of Python: module and name."""


def watch(root: Path, opened: Opened) -> None:
    """Call ``opened`` before this process opens or makes anything below ``root``, for as long as it lives."""
    prefix, inside = f"{root}{os.sep}", [False]

    def tell(kind: str, path: Any) -> None:
        try:
            name = os.path.abspath(os.fsdecode(path))
        except TypeError:  # an open descriptor
            return
        if not inside[0] and name.startswith(prefix):
            inside[0] = True
            try:
                opened(kind, name)
            finally:
                inside[0] = False

    def heard(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = values
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & (WRITES | os.O_CREAT)):
                tell("file", path)
        elif event == "os.mkdir" and not os.path.isdir(values[0]):
            tell("folder", values[0])

    sys.addaudithook(heard)
    for module, name in NATIVE:
        wrap(module, name, tell)


def wrap(module: str, name: str, tell: Callable[[str, Any], None]) -> None:
    """Have a call tell of the path among its first arguments before it is made."""
    holder: Any = __import__(module, fromlist=["_"])
    *classes, last = name.split(".")
    for one in classes:
        holder = getattr(holder, one)
    call = getattr(holder, last)

    @functools.wraps(call, updated=())
    def told(*arguments: Any, **more: Any) -> Any:
        if last != "OSFile" or "r" not in (arguments[1] if len(arguments) > 1 else more.get("mode", "r")):
            for one in arguments[:3]:
                if isinstance(one, str | os.PathLike):
                    tell("file", one)
        return call(*arguments, **more)

    setattr(holder, last, told)


def spelling(root: Path, path: str) -> str:
    """A place by what it is for: without numbers, hashes, and the marks of unfinished files."""
    name = os.path.relpath(path, root)
    name = re.sub(r"\.tmp-[^/]*", ".tmp", name)
    name = re.sub(r"padless-[a-z0-9_]{8}\b|\btmp[a-z0-9_]{8}\b", "padless-~", name)
    name = re.sub(r"ort\.quant\.[a-z0-9_]{8}\b", "ort.quant.~", name)
    name = re.sub(r"(?<![a-z])[0-9a-f]{8,}(?![a-z])", "~", name)
    return re.sub(r"\d{2,}", "#", name)
