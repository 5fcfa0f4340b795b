# SPDX-License-Identifier: Apache-2.0
"""A full disk at every place that writes: ``python -m tests.full_disks``, all of it, and a few commands of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.full_disks.disk import why_not


def sweep(tmp_path: Path, *words: str, timeout_s: float) -> dict[str, object]:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.full_disks", "--json", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_place_where_a_dataset_and_predictions_are_written(tmp_path: Path) -> None:
    found = sweep(tmp_path, "--quick", "--only", "^(preprocessing|prediction of a file)$", timeout_s=1100)
    assert found["faults"] == 0, [one for one in found["trials_of"] if one["faults"]]  # type: ignore[attr-defined]
    assert found["places"] >= 30  # type: ignore[operator]


@pytest.mark.night
@pytest.mark.timeout(3600)
def test_every_place_that_writes_on_a_full_disk(tmp_path: Path) -> None:
    found = sweep(tmp_path, "--quick", timeout_s=3500)
    assert found["faults"] == 0, [one for one in found["trials_of"] if one["faults"]]  # type: ignore[attr-defined]
    assert found["places"] >= 150  # type: ignore[operator]
