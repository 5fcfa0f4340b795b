# SPDX-License-Identifier: Apache-2.0
"""The GPU test script, run on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import run_command, succeed


@pytest.mark.slow
def test_every_claim_holds_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/gpu/prove.py", "--out", str(tmp_path), "--device", "cpu"]
    result = succeed(run_command(command, 600))
    assert "Proof on cpu: every claim holds" in result.stdout
