# SPDX-License-Identifier: Apache-2.0
"""Runs on two ranks that begin with vectors of their own texts: learned once, the same for all, held while frozen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.vectors import find_kept, folder_of
from tests.commands import read_json
from tests.datasets import write_dataset
from tests.runs import train_to_end

pytestmark = pytest.mark.processes

DIM, STD = 8, 0.5
MODEL = ("--model.embedding_dim", DIM, "--model.hidden_size", 4, "--model.embedding_std", STD, "--init.vectors", "own")
TRAINING = ("--epochs", 1, "--global_batch", 16, "--precision", "fp32", "--device", "cpu", "--timeout_s", 60)


def test_learned_once_and_held_to_the_end(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, {"train": 120, "validation": 30})
    frozen = ["--model.freeze_embedding", "always", "--optim.weight_decay", "0.1", "--optim.ema", "0.9"]
    result = train_to_end("--data", data, "--run", run, *MODEL, *TRAINING, *frozen, processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "learning   vectors of" in result.stdout
    kept = find_kept(folder_of(data), read_manifest(data).fingerprint, DIM)
    assert kept is not None
    learned = kept.read()
    has = learned.any(axis=1)
    (path,) = (run / "bundle").glob("weights-*.safetensors")
    embedding = load_file(path)["embedding.weight"]
    np.testing.assert_allclose(embedding[has], learned[has] * (STD / learned[has].std()), rtol=1e-5)
    assert not embedding[0].any()
    moments = load_file(max((run / "checkpoints").iterdir()) / "optimizer.safetensors")
    for name in ("exp_avg", "exp_avg_sq", "step"):
        assert not moments[f"{name}.embedding.weight"].any(), name
        assert moments[f"{name}.head.weight"].any()
    assert read_json(run / "bundle" / "bundle.json")["vectors"]["sha256"] == kept.info.sha256
