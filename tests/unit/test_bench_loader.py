# SPDX-License-Identifier: Apache-2.0
"""``bench loader``: its output's form, on a dataset and on made-up rows. Its figures are no test's business."""

from __future__ import annotations

import importlib.util
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from harness.bench import loader
from harness.bench.loader import LoaderConfig, measure, private_bytes
from tests.datasets import write_dataset

OURS = ("numpy copy", "numpy take", "TensorDataset + DataLoader")


@pytest.mark.processes
@pytest.mark.parametrize("made_up", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_ratios_and_megabytes_follow_from_the_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_up: bool
) -> None:
    kept = {name: loader.PEERS[name] for name in ("ours", *OURS)}
    monkeypatch.setattr(loader, "PEERS", kept)
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


def test_private_memory_leaves_mapped_files_out(tmp_path: Path) -> None:
    size = 40 << 20
    (tmp_path / "file").write_bytes(os.urandom(size))
    before = private_bytes()
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert np.frombuffer(pages, np.uint8)[::4096].astype(int).sum() > 0
        assert private_bytes() - before < size / 4
    with mmap.mmap(-1, size) as own:  # not from malloc, which may have pages left over from other tests
        own[:] = b"x" * size
        assert private_bytes() - before >= size


MODULES = {
    "Hugging Face datasets + DataLoader": "datasets",
    "LitData": "litdata",
    "MosaicML streaming": "streaming",
}


@pytest.mark.processes
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("default")
def test_a_peer_runs_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    installed = importlib.util.find_spec(MODULES[name]) is not None
    monkeypatch.setattr(loader, "PEERS", {key: loader.PEERS[key] for key in ("ours", name)})
    values = measure(LoaderConfig(rows=1000, width=16, batch=50, rounds=1))
    assert set(values["peers"]) == ({name} if installed else set())
    assert values["not_installed"] == ([] if installed else [name])
    assert all(speed > 0 for speed in values["peers"].values())
