# SPDX-License-Identifier: Apache-2.0
"""Where a command writes: every file it opens for writing and every directory it makes, as the command runs.

Python tells of its own calls (audit events); what Arrow, safetensors and torch open by themselves is seen by wrapping
the few calls that padless has of each.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
