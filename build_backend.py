# SPDX-License-Identifier: Apache-2.0
"""The build backend: setuptools', whose archives are then written again so that they depend on the files alone.

setuptools takes times, modes and owners from the disk. Here every entry has one time, one of two modes and no owner,
and stands in the order of its name; the same files give the same bytes whoever builds, where and when. The time is that
of ``SOURCE_DATE_EPOCH`` (reproducible-builds.org), or a fixed one. ``python build_backend.py FOLDER`` builds both.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from setuptools import build_meta  # type: ignore[import-untyped]
from setuptools.build_meta import *  # type: ignore[import-untyped] # noqa: F403 - what a frontend asks for besides

FIXED = 1_580_601_600
"""2020-02-02, in seconds since 1970."""
EARLIEST = 315_532_800
"""1980-01-01: a zip archive knows no time before it."""
PLAIN, EXECUTABLE = 0o644, 0o755


def moment() -> int:
    """The time of every entry, in seconds since 1970."""
    return max(EARLIEST, int(os.environ.get("SOURCE_DATE_EPOCH", FIXED)))


def build_wheel(directory: str, settings: Any = None, metadata_directory: str | None = None) -> str:
    """A wheel in ``directory``; returns its name."""
    name = build_meta.build_wheel(directory, settings, metadata_directory)
    rewrite(Path(directory, name), same_wheel)
    return name


def build_sdist(directory: str, settings: Any = None) -> str:
    """A source distribution in ``directory``; returns its name."""
    name = build_meta.build_sdist(directory, settings)
    rewrite(Path(directory, name), same_sdist)
    return name


def rewrite(path: Path, same: Callable[[bytes], bytes]) -> None:
    """Replace an archive by what ``same`` makes of its bytes."""
    content = same(path.read_bytes())
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(content)
    os.replace(beside, path)


def same_wheel(content: bytes) -> bytes:
    """The zip archive with the same files, in order, the list of them (RECORD) last as its format wants it."""
    written, when = io.BytesIO(), time.gmtime(moment())[:6]
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        files = [one for one in old.infolist() if not one.is_dir()]
        for one in sorted(files, key=lambda one: (one.filename.endswith(".dist-info/RECORD"), one.filename)):
            entry = zipfile.ZipInfo(one.filename, when)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (stat.S_IFREG | mode_of(one.external_attr >> 16)) << 16
            new.writestr(entry, old.read(one))
    return written.getvalue()


def same_sdist(content: bytes) -> bytes:
    """The compressed tar archive with the same files and folders, in order; raises ``ValueError`` for anything else."""
    written = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        gzip.GzipFile("", "wb", 9, written, mtime=moment()) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for one in sorted(old.getmembers(), key=lambda one: one.name):
            if not (one.isfile() or one.isdir()):
                raise ValueError(f"{one.name}: neither a file nor a folder")
            entry = tarfile.TarInfo(one.name)
            entry.type, entry.mtime = one.type, moment()
            entry.mode = EXECUTABLE if one.isdir() else mode_of(one.mode)
            entry.size = one.size if one.isfile() else 0
            new.addfile(entry, old.extractfile(one))
    return written.getvalue()


def mode_of(mode: int) -> int:
    """Executable or not, whatever the umask was."""
    return EXECUTABLE if mode & stat.S_IXUSR else PLAIN


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for build in (build_sdist, build_wheel):
        built = folder / build(str(folder))
        print(f"{hashlib.sha256(built.read_bytes()).hexdigest()}  {built}")
