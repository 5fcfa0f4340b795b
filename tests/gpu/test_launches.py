# SPDX-License-Identifier: Apache-2.0
"""On a card, as a user starts it: every precision learns, two ranks end with the weights of one, and a lost rank is
noticed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.gpu.device import DEVICE, ON_CUDA, for_two_ranks, skip_without
from tests.helpers.commands import (
    PLAIN_RECIPE,
    ROOT,
    later_wins,
    read_metrics,
    run_module,
    start_python,
    status_of,
    succeed,
    values_in_log,
    wait_until,
)
from tests.helpers.runs import kill, rank_of, steps_done

pytestmark = [pytest.mark.processes]
pytestmark += [] if ON_CUDA else [pytest.mark.slow]  # on CPUs other tests prove the same
OPTIONS = ("--config_file", ROOT / f"configs/accelerate/{'gpu' if ON_CUDA else 'cpu'}.yaml", "--num_processes")
MODEL = "--model.embedding_dim 32 --model.hidden_size 32 --model.pooling mean --model.embedding_std 0.1 --optim.lr 0.01"
NOTICE_S = 90


def words_of(data: Path, run: Path, processes: int, *keys: object) -> tuple[object, ...]:
    """The words of ``python -m`` for a training."""
    places = ("--data", data, "--run", run, "--device", DEVICE, "--timeout_s", 15, "--tracking.log_every", 1)
    return (*later_wins("padless", "train", *OPTIONS, processes, *PLAIN_RECIPE, *MODEL.split(), *places, *keys),)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_training_learns_in_every_precision(reviews: Path, tmp_path: Path, precision: str) -> None:
    skip_without(precision)
    keys = ("--precision", precision, "--epochs", 10, "--global_batch", 16)
    succeed(run_module(*map(str, words_of(reviews, tmp_path / "run", 1, *keys))))
    losses = np.array(values_in_log(tmp_path / "run", "loss"))
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
    assert read_metrics(tmp_path / "run", "test")[-1]["rows"] == 64


@for_two_ranks
def test_two_ranks_see_the_rows_of_one_and_learn_the_same(reviews: Path, tmp_path: Path) -> None:
    hashes, losses = [], []
    for processes in (1, 2):
        keys = ("--precision", "fp32", "--epochs", 2, "--global_batch", 32, "--model.wide", 1 << 12)
        run = tmp_path / f"run-{processes}"
        succeed(run_module(*map(str, words_of(reviews, run, processes, *keys))))
        hashes.append(values_in_log(run, "row_hash"))
        losses.append(values_in_log(run, "loss"))
    assert hashes[0] == hashes[1]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@for_two_ranks
@pytest.mark.parametrize("lose", [psutil.Process.kill, psutil.Process.suspend])
def test_a_lost_rank_is_noticed(reviews: Path, tmp_path: Path, lose: Callable[[psutil.Process], object]) -> None:
    run = tmp_path / "run"
    words = words_of(reviews, run, 2, "--epochs", 500, "--global_batch", 8)
    with (tmp_path / "log").open("w") as log:
        environment = {"PET_SHUTDOWN_TIMEOUT": "15"}
        process = start_python(
            "-m", *words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or steps_done(run) >= 4)
        lose(rank_of(run))
        assert process.wait(NOTICE_S) == 1, (tmp_path / "log").read_text()
    finally:
        if process.poll() is None:
            kill(process)
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "rank" in status["reason"]
