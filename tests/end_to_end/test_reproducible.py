# SPDX-License-Identifier: Apache-2.0
"""Builds of the wheel and the source distribution are reproducible, byte by byte."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, run_command, succeed
from tests.end_to_end.test_installed import SOURCES

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ELSEWHERE = (
    ("a", 0o022, 1_700_000_000, {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
    ("ö/b c", 0o077, 1_000_000_000, {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"}),
)
"""Folder, umask, time of the first file, environment."""


def checkout(folder: Path, umask: int, first: int) -> Path:
    """A copy whose files have other times and modes, and are listed in another order."""
    folder.mkdir(parents=True)
    sources = [path for name in SOURCES for path in (ROOT / name, *(ROOT / name).rglob("*"))]
    files = [path for path in sources if path.is_file() and "__pycache__" not in path.parts]
    for number, path in enumerate(sorted(files, reverse=umask > 0o022)):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod((0o777 if path.stat().st_mode & stat.S_IXUSR else 0o666) & ~umask)
        os.utime(target, (first + number, first + number))
    return folder


def build(source: Path, umask: int, env: dict[str, str]) -> dict[str, bytes]:
    """Both archives, by the hooks that frontends call."""
    command = ["sh", "-c", f'umask {umask:o}; exec "$0" "$@"', sys.executable, "build_backend.py", "dist"]
    succeed(run_command(command, 300, {"SOURCE_DATE_EPOCH": str(1_600_000_000), **env, "PYTHONPATH": ""}, cwd=source))
    return {path.name: path.read_bytes() for path in sorted((source / "dist").iterdir())}


def test_two_places_build_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="to build without downloading it")
    here, there = (
        build(checkout(tmp_path / folder, umask, first), umask, env) for folder, umask, first, env in ELSEWHERE
    )
    assert sorted(path.rpartition(".")[2] for path in here) == ["gz", "whl"]
    assert here == there
