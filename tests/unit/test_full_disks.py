# SPDX-License-Identifier: Apache-2.0
"""A full disk at every write: some or all commands of ``python -m tests.full_disks``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run_module
from tests.full_disks import why_not


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("only", "at_least"),
    [
        pytest.param("^(preprocessing|prediction of a file)$", 30, marks=pytest.mark.slow),
        pytest.param("", 80, marks=pytest.mark.night),
    ],
)
def test_every_place_that_writes_on_a_full_disk(tmp_path: Path, only: str, at_least: int) -> None:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    result = run_module("tests.full_disks", "--only", only, timeout_s=3500, OMP_NUM_THREADS="1")
    assert result.stdout, result.stderr
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert found["trials"] >= at_least
