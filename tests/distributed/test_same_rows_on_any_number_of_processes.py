# SPDX-License-Identifier: Apache-2.0
"""Real runs: the row hash of every log line is the same on 1, 2 and 4 ranks, and no dataset changes under a run; two
ranks that begin with the weights of another model begin with the same, read once; an error of the thread that writes
checkpoints ends both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from harness.config import CheckpointConfig, Choice, RunConfig, TrackingConfig
from harness.distributed import session as sessions
from harness.distributed.session import open_session
from harness.rundir import checkpoint
from harness.training.assembly import open_run
from harness.training.trainer import Trainer
from tests.helpers.bundles import write_drawn
from tests.helpers.commands import read_json, read_metrics, status_of, values_in_log
from tests.helpers.datasets import shared_dataset, write_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import arguments, small, train_to_end

pytestmark = pytest.mark.processes

ROWS = {"global_batch": 21}
RUNS: dict[str, dict[str, Any]] = {
    "accumulated": {**ROWS, "micro_batch": 3},
    "pretraining": {**ROWS, "task": "language_model"},
}


def configure(run: Path, **options: Any) -> RunConfig:
    """The dataset lies in the folder of the run's folder."""
    every_step = TrackingConfig(log_every=1)
    return small(run.parents[1] / "data", run, timeout_s=60, epochs=2, tracking=every_step, **options)


def train(root: Path) -> None:
    """Several runs one after the other, on ranks that have met once."""
    with open_session("cpu", "fp32", 60) as session:
        torch.set_num_threads(1)  # threads of a tiny network only wait for each other
        for name, options in RUNS.items():
            with open_run(configure(root / name, **options), session) as run:
                run.fit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "data", {"train": 150, "validation": 20, "test": 20, "unlabelled": 60})
    for ranks in (1, 4):
        run_ranks(train, ranks, root / str(ranks))
    return root


@pytest.mark.parametrize("name", RUNS)
def test_one_and_four_ranks_log_the_same_rows(runs: Path, name: str) -> None:
    hashes = values_in_log(runs / "1" / name, "row_hash")
    assert len(hashes) == len(set(hashes)) >= 14
    assert values_in_log(runs / "4" / name, "row_hash") == hashes
    losses_of_one, losses_of_four = (values_in_log(runs / ranks / name, "loss") for ranks in ("1", "4"))
    assert losses_of_one == pytest.approx(losses_of_four, abs=1e-5)


def replace_a_shard(data: Path) -> None:
    """From inside the second step."""
    shard, update, copies = data / "train" / "00000-w0064.arrow", Trainer.update, []

    def harmful(self: Trainer, batch: Any) -> Any:
        if not copies and self.step == 1 and self.world.rank == 0:  # all ranks have mapped it for their first step
            copies.append(shutil.copy(shard, shard.with_suffix(".new")))
            os.replace(shard.with_suffix(".new"), shard)
        return update(self, batch)

    Trainer.update = harmful  # type: ignore[method-assign]


def break_checkpoints(data: Path) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("the library broke")

    checkpoint.write_tensors = fail  # type: ignore[assignment]


def train_with_harm(harm: Callable[[Path], None], root: Path) -> tuple[str, str]:
    """Type and text of the exception that the training ends with."""
    harm(root / "data")
    with open_session("cpu", "fp32", 60) as session:
        try:
            with open_run(
                configure(root / "runs/run", checkpoint=CheckpointConfig(every_steps=2), **ROWS), session
            ) as run:
                run.fit()
        except Exception as error:
            return type(error).__name__, str(error)
    return "finished", ""


@pytest.mark.parametrize(
    ("harm", "ends", "exit_code", "steps"),
    [
        (replace_a_shard, [("DataError", "this shard was removed or replaced")] * 2, 3, 8),
        (
            break_checkpoints,
            [("RuntimeError", "the library broke"), ("RankError", "rank 0: RuntimeError: the li")],
            1,
            0,
        ),
    ],
)
def test_a_dataset_that_changes_and_an_error_of_the_checkpoint_thread_end_all_ranks_together(
    tmp_path: Path, harm: Callable[[Path], None], ends: list[tuple[str, str]], exit_code: int, steps: int
) -> None:
    """With another dataset, the epoch that was under way is whole, and logged."""
    write_dataset(tmp_path / "data", {"train": 150, "validation": 20, "test": 20})
    for (kind, sentence), (expected_kind, words) in zip(
        run_ranks(train_with_harm, 2, harm, tmp_path), ends, strict=True
    ):
        assert (kind, words in sentence) == (expected_kind, True)
    status = status_of(tmp_path / "runs/run")
    assert (status["state"], status["exit_code"]) == ("failed", exit_code)
    assert len(read_metrics(tmp_path / "runs/run", "train")) >= steps
    assert status["step"] <= 8


data = shared_dataset({"train": 400, "validation": 100, "test": 50})


@pytest.mark.timeout(280, func_only=True)
def test_all_ranks_begin_with_what_rank_0_has_read(data: Path, tmp_path: Path) -> None:
    """One rank and two end alike; both learn the linear part from the rows."""
    write_drawn(tmp_path / "bundle", data, embedding_dim=16, hidden_size=16, wide=256)
    ends = []
    for number in (1, 2):
        run = tmp_path / f"run-{number}"
        words = arguments(data, run, "--init.weights", str(tmp_path / "bundle"), "--epochs", "1")
        result = train_to_end(*words, processes=number)
        assert result.returncode == 0, result.stderr[-3000:]
        (path,) = (run / "bundle").glob("weights-*.safetensors")
        ends.append(load_file(path))
        facts = read_json(run / "bundle" / "bundle.json")["started_from"]
        assert facts["what"] == "embedding and recurrent layers of a classifier"
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], atol=5e-6, err_msg=name)
    for name in ("wide.table", "wide.weights", "wide.bias"):
        np.testing.assert_array_equal(ends[0][name], ends[1][name])
    assert ends[0]["wide.table"].any()


def compute_otherwise() -> None:
    """On a rank: the second one has a card of another kind."""
    if os.environ["RANK"] == "1":
        sessions.choose_precision = lambda *_: Choice("bf16", "planted")


def test_ranks_that_compute_in_other_arithmetic_are_refused(data: Path, tmp_path: Path) -> None:
    words = arguments(data, tmp_path / "run")
    result = train_to_end(*words, processes=2, setup=compute_otherwise)
    assert result.returncode == 2
    assert "rank 1 has arithmetic bf16, rank 0 has fp32" in result.stderr
