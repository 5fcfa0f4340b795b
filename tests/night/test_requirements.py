# SPDX-License-Identifier: Apache-2.0
"""The tests that are neither thorough nor slow pass with the lowest and the newest versions that ``pyproject.toml``
allows; ``make versions`` runs this.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.helpers.commands import ROOT, run_command, succeed

pytestmark = pytest.mark.night

INSTALL_S, TESTS_S = 3600, 7200
WANTED = "not thorough and not slow and not night"


def lines_for(kind: str) -> list[str]:
    """What pip is asked for. An old torch without CUDA is on an index of its own, so torch is never pinned."""
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "bench"]
    lines = {line for lines in (project["dependencies"], *extras) for line in lines if not line.startswith("padless")}
    if kind == "newest":
        return sorted({re.sub(r">=[\d.]+,?", "", line) for line in lines})
    return sorted(line if line.startswith("torch") else re.sub(r">=([\d.]+).*", r"==\1", line) for line in lines)


@pytest.mark.parametrize("kind", ["lowest", "newest"])
def test_it_works_with_the_versions_that_are_allowed(kind: str) -> None:
    """Install them in a fresh environment and run the tests there."""
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
