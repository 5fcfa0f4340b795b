# SPDX-License-Identifier: Apache-2.0
"""The lowest and the newest versions that ``pyproject.toml`` allows, each installed into an environment of its own, in
which the tests that start no process pass and a corpus becomes a dataset, a model and a prediction.

torch has the newest version that pip finds in both: an old one without CUDA is on an index of its own. An environment
that is whole is used again (the newest one for a week); its ``versions.json`` says what it was made of.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from padless.core import atomic
from tests.helpers.commands import ROOT, read_json, run_command, succeed
from tests.helpers.licences import UNPINNED, Requirement, requirements

pytestmark = pytest.mark.night

FOLDER = Path(os.environ.get("PADLESS_NIGHT", ROOT / "night")) / "requirements"
INSTALL_S, TESTS_S, COMMAND_S = 3600, 7200, 600
LEFT_OUT = {"bench"}
"""Extras whose distributions are held against padless, and are never part of it."""
OLD = "ignore::DeprecationWarning"
WANTED = "not thorough and not slow and not night"
VERSIONS = "versions.json"
"""Written last into the folder of an environment."""


def lines_for(kind: str, lines: list[Requirement]) -> list[str]:
    """What pip is asked for, each distribution once."""
    name = "lowest_pin" if kind == "lowest" else "newest"
    return sorted({getattr(line, name) for line in lines if line.group not in LEFT_OUT})


def numbers_of(version: str) -> list[int]:
    """A version to be compared: 1.4 is 1.4.0, and what follows a + says how it was built."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


@pytest.mark.parametrize("kind", ["lowest", "newest"])
def test_it_works_with_these_versions(kind: str) -> None:
    folder, versions = environment(kind)
    if kind == "lowest":
        lowest = {line.name: line.lowest for line in requirements() if line.group not in LEFT_OUT}
        not_lowest = {name for name in lowest if numbers_of(versions[name]) != numbers_of(lowest[name])}
        print(f"not the lowest: {', '.join(f'{name} {versions[name]}' for name in sorted(not_lowest))}")
        assert not_lowest <= UNPINNED
    python = str(folder / "venv" / "bin" / "python")
    quietly = ("-W", OLD) if kind == "lowest" else ()  # old versions of two libraries may warn of each other
    words = ("-p", "no:cacheprovider", "-m", WANTED, "-n", "2", "--dist", "loadfile", "tests")
    print(succeed(run_command([python, "-m", "pytest", *quietly, *words], TESTS_S, {})).stdout)


def environment(kind: str) -> tuple[Path, dict[str, str]]:
    """The folder of an environment, and the version of each distribution that ``pyproject.toml`` names."""
    lines = lines_for(kind, requirements())
    basis = [*lines, platform.python_version(), *(date.today().isocalendar()[:2] if kind == "newest" else ())]
    name = f"{kind}-{hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:10]}"
    folder = FOLDER / name
    if (folder / VERSIONS).exists():
        return folder, read_json(folder / VERSIONS)
    for old in folder.parent.glob(f"{kind}-*"):
        shutil.rmtree(old)
    folder.mkdir(parents=True)
    versions = install(lines, folder)
    direct = {line.name: versions[line.name] for line in requirements() if line.group not in LEFT_OUT}
    atomic.write_json(folder / VERSIONS, direct)
    return folder, direct


def install(lines: list[str], folder: Path) -> dict[str, str]:
    """Make an environment of what pip is asked for; the version of everything that is then there."""
    requirements_file = folder / "requirements.txt"
    requirements_file.write_text("\n".join(lines) + "\n")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=300)
    pip = [folder / "venv" / "bin" / "python", "-m", "pip"]
    variables = {"PYTHONPATH": ""}
    install_command = [*pip, "install", "--quiet", "--only-binary", ":all:", "-r", str(requirements_file)]
    succeed(run_command(install_command, INSTALL_S, variables))
    listed = succeed(run_command([*pip, "list", "--format", "json"], COMMAND_S, variables))
    return {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listed.stdout)}
