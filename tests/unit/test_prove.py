# SPDX-License-Identifier: Apache-2.0
"""The script that proves things on a card: its data, its table, its limits; the stages run on a CPU by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.processes
def test_a_stage_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests/gpu'); import prove; from tests.gpu.stages import Stage; "
        "from pathlib import Path; out = Path(sys.argv[1]); prove.LEAST_S = 0; "
        "stages = [Stage('none', 'No such', 30), Stage('versions', 'Too slow', 0.05), Stage('versions', 'Good', 60)]; "
        "sys.exit(prove.Proof(out, out, 'cpu', stages).run())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    said = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert [line.split(" after")[0] for line in said] == ["No such: failed", "Too slow: timed out", "Good: done"]
    found = json.loads((tmp_path / "prove.json").read_text())
    assert "No module named 'tests.gpu.stages.none'" in found["none"]["error"]
    assert found["versions"]["lines"][0]["what"] == "PyTorch version"


@pytest.mark.slow
def test_every_claim_holds_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/gpu/prove.py", "--out", str(tmp_path), "--device", "cpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout
    assert "Proof on cpu: every claim holds" in result.stdout
