# SPDX-License-Identifier: Apache-2.0
"""Runs on two ranks that begin with the weights of another model, or with vectors of their own texts: the same for all,
recorded, learned or read once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.vectors import find_kept, folder_of
from tests.bundles import write_drawn
from tests.commands import read_json
from tests.datasets import shared_dataset, write_dataset
from tests.runs import arguments, train_to_end

pytestmark = pytest.mark.processes

SIZES: dict[str, Any] = {"embedding_dim": 16, "hidden_size": 16}
"""Those of ``tests.runs``."""


data = shared_dataset({"train": 400, "validation": 100, "test": 50})


@pytest.mark.timeout(280, func_only=True)
def test_all_ranks_begin_with_what_rank_0_has_read(data: Path, tmp_path: Path) -> None:
    """One rank and two end alike; both learn the linear part from the rows."""
    write_drawn(tmp_path / "bundle", data, **SIZES, wide=256)
    ends = []
    for number in (1, 2):
        run = tmp_path / f"run-{number}"
        words = arguments(data, run, "--init.weights", str(tmp_path / "bundle"), "--epochs", "1")
        result = train_to_end(*words, processes=number)
        assert result.returncode == 0, result.stderr[-3000:]
        (path,) = (run / "bundle").glob("weights-*.safetensors")
        ends.append(load_file(path))
        facts = read_json(run / "bundle" / "bundle.json")["started_from"]
        assert facts["taken"] == ["embedding", "recurrent layer 1", "head"]
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], atol=5e-6, err_msg=name)
    for name in ("wide.table", "wide.weights", "wide.bias"):
        np.testing.assert_array_equal(ends[0][name], ends[1][name])
    assert ends[0]["wide.table"].any()


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
