# SPDX-License-Identifier: Apache-2.0
"""Every shell script passes shellcheck."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.processes

SCRIPTS = [ROOT / ".ci" / "run", *sorted(ROOT.glob("launch/**/*.s*")), *sorted(ROOT.glob("tests/**/*.s*h"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_passes_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    result = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout
