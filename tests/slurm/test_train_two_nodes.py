# SPDX-License-Identifier: Apache-2.0
"""``accelerate launch`` on each of two nodes is one training run: it sees the rows that one process sees, in order."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.commands import ROOT, read_metrics, run_module, succeed
from tests.datasets import write_dataset
from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.timeout(240, func_only=True)

SCRIPT = ROOT / "tests" / "slurm" / "train.sbatch"
SMALL = ("--model.embedding_dim", 16, "--model.hidden_size", 16, "--epochs", 1, "--tracking.log_every", 1)
TRAINING = (*SMALL, "--precision", "fp32", "--device", "cpu", "--global_batch", 32, "--timeout_s", 60)


def test_two_nodes_train_as_one_process_does(cluster: Cluster) -> None:
    data, together, alone = (cluster.folder / name for name in ("data", "together", "alone"))
    write_dataset(data, {"train": 320, "validation": 100, "test": 100})
    job = cluster.submit(SCRIPT, "--data", data, "--run", together, *TRAINING)
    cluster.complete(job, 180)
    succeed(run_module("harness", "launch", "--data", data, "--run", alone, *TRAINING))

    log = cluster.log(job)
    status = json.loads((together / "status.json").read_text())
    environment = json.loads((together / "environment.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 10), log
    assert environment["effective"]["processes"].startswith("2:"), log
    ours, theirs = read_metrics(together, "train"), read_metrics(alone, "train")
    assert [line["row_hash"] for line in ours] == [line["row_hash"] for line in theirs]
    assert [line["rows"] for line in ours] == [line["rows"] for line in theirs]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], atol=2e-4)
    our_test, their_test = (json.loads((run / "test.json").read_text()) for run in (together, alone))
    assert our_test["rows"] == their_test["rows"] == 100
    assert our_test["log_loss"] == pytest.approx(their_test["log_loss"], abs=1e-3)
