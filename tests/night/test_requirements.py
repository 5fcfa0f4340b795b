# SPDX-License-Identifier: Apache-2.0
"""The tests that are neither thorough nor slow pass with the lowest and the newest versions that ``pyproject.toml``
allows. The versions are kept as a table, ``docs/reference/versions.md``; ``make versions`` runs this.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.helpers.commands import ROOT, run_command, succeed

pytestmark = pytest.mark.night

INSTALL_S, TESTS_S = 3600, 7200
WANTED = "not thorough and not slow and not night"
TABLE = ROOT / "docs/reference/versions.md"
PAGE = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# Versions

`make versions` installs the lowest and the newest versions that `pyproject.toml` allows, each in a fresh
environment, and runs the tests there that are neither thorough nor slow. They passed with these versions, Python
{python} on {system} ({day}). torch is not pinned: its old versions for CPUs are not in the package registry.

| package | lowest | newest |
|---|---|---|
{rows}
"""


def lines_for(kind: str) -> list[str]:
    """What pip is asked for. An old torch without CUDA is on an index of its own, so torch is never pinned."""
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "bench"]
    lines = {line for lines in (project["dependencies"], *extras) for line in lines if not line.startswith("padless")}
    if kind == "newest":
        return sorted({re.sub(r">=[\d.]+,?", "", line) for line in lines})
    return sorted(line if line.startswith("torch") else re.sub(r">=([\d.]+).*", r"==\1", line) for line in lines)


def run_tests_with(kind: str) -> dict[str, str]:
    """Install one kind of versions and run the tests with them; returns the version of each package."""
    with TemporaryDirectory() as folder:
        python, requirements = f"{folder}/bin/python", Path(folder, "requirements.txt")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
        requirements.write_text("\n".join(lines_for(kind)))
        install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r", str(requirements)]
        succeed(run_command(install, INSTALL_S, {"PYTHONPATH": ""}))
        # old versions of two libraries may warn of each other
        quietly = ("-W", "ignore::DeprecationWarning") if kind == "lowest" else ()
        words = ("-p", "no:cacheprovider", "-m", WANTED, "-n", "2", "--dist", "loadfile", "tests")
        output = succeed(run_command([python, "-m", "pytest", *quietly, *words], TESTS_S)).stdout
        assert re.search(r"\d{3,} passed", output), output
        packages = json.loads(succeed(run_command([python, "-m", "pip", "list", "--format", "json"])).stdout)
    return {
        re.sub(r"[-_.]+", "-", package["name"].lower()): package["version"].partition("+")[0] for package in packages
    }


def test_it_works_with_the_lowest_and_the_newest_versions() -> None:
    lowest, newest = run_tests_with("lowest"), run_tests_with("newest")
    names = sorted({re.split(r"[\[>]", line)[0] for line in lines_for("newest")})
    rows = "\n".join(f"| {name} | {lowest[name]} | {newest[name]} |" for name in names)
    python, system = platform.python_version(), platform.system()
    TABLE.write_text(PAGE.format(python=python, system=system, day=date.today().isoformat(), rows=rows))
