# SPDX-License-Identifier: Apache-2.0
"""The GPU test script, run on a CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import run_command, succeed
from tests.gpu.prove import BEGIN, END, PAGE, write_into


def test_a_table_replaces_the_one_before_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write_into(page, "| new |\n")
    assert page.read_text() == f"above\n{BEGIN}\n| new |\n{END}\nbelow\n"
    assert BEGIN in PAGE.read_text()
    assert END in PAGE.read_text()


@pytest.mark.slow
def test_every_claim_holds_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/gpu/prove.py", "--out", str(tmp_path), "--device", "cpu"]
    result = succeed(run_command(command, 600))
    assert "Proof on cpu: every claim holds" in result.stdout
