# SPDX-License-Identifier: Apache-2.0
"""``bench loader``: its output's form, on a dataset and on made-up rows. Its figures are no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import bench_loader
from harness.bench_loader import LoaderConfig, measure
from tests.datasets import write_dataset

OURS = ("numpy copy", "numpy take", "TensorDataset + DataLoader")


@pytest.mark.parametrize("made_up", [True, False])
def test_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_up: bool) -> None:
    kept = {name: bench_loader.PEERS[name] for name in ("ours", *OURS)}
    monkeypatch.setattr(bench_loader, "PEERS", kept)
    if not made_up:
        write_dataset(tmp_path, {"train": 400, "validation": 20, "test": 20})
    data = None if made_up else str(tmp_path)
    values = measure(LoaderConfig(data=data, rows=1000, width=16, batch=50, rounds=1))
    assert values["unit"] == "rows/s"
    assert set(values["peers"]) == set(values["ratios"]) == set(OURS)
    assert values["ratios"]["numpy copy"] == pytest.approx(values["ours"] / values["peers"]["numpy copy"])
    assert values["width"] == (16 if made_up else 64)
    assert values["mb_per_s"]["ours"] == pytest.approx(values["ours"] * values["width"] * 2 / 1e6)
    assert set(values["private_mb"]) == {"ours", *OURS}
    assert values["not_installed"] == []
