# SPDX-License-Identifier: Apache-2.0
"""On a card, as a user starts it: every precision learns, two ranks end with the weights of one, and a lost rank is
noticed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.rundir.json_files import read_lines
from tests.gpu.device import DEVICE, ON_CUDA, cuda_alone, for_two_ranks, skip_without
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
MODEL = "--model.embedding_dim 32 --model.hidden_size 32 --model.embedding_std 0.1 --optim.lr 0.01"
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


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=for_two_ranks)])
def test_a_stopped_training_goes_on_and_every_command_says_what_the_cpu_says(
    reviews: Path, tmp_path: Path, processes: int
) -> None:
    """Nothing warns on the way."""
    run, out = tmp_path / "run", tmp_path / "out"
    words = words_of(reviews, run, processes, "--precision", "fp32", "--epochs", 3, "--global_batch", 32)
    assert run_module(*map(str, words), "--max_time", "0.01").returncode == 85
    assert "warn" not in succeed(run_module(*map(str, words))).stderr.lower()
    assert len(read_lines(run / "attempts.jsonl")) == 2
    dry_run = words_of(reviews, tmp_path / "dry", processes, "--dry_run")
    assert DEVICE in succeed(run_module(*map(str, dry_run))).stdout
    figures_by_device = {}
    for device in (DEVICE, "cpu"):
        where = ("--device", device, "--json")
        test = ("--data", reviews, "--split", "test", "-o", out / device)
        figures = json.loads(succeed(run_module("padless", "evaluate", run, *test, *where)).stdout)
        predicted = json.loads(succeed(run_module("padless", "predict", run, "w33001 w40 w50", *where)).stdout)
        explained = json.loads(succeed(run_module("padless", "explain", run, "w33001 w40 w50", *where)).stdout)
        figures_by_device[device] = figures["log_loss"], predicted["probability_positive"], explained["logit"]
    assert figures_by_device[DEVICE] == pytest.approx(figures_by_device["cpu"], abs=1e-3)


@cuda_alone
def test_a_thousand_prefetched_steps_are_those_that_wait_for_each_kernel(reviews: Path, tmp_path: Path) -> None:
    """Batches of ever other lengths do not use up the memory of the card."""
    losses = []
    for name, environment in (("prefetched", {}), ("blocking", {"CUDA_LAUNCH_BLOCKING": "1"})):
        run = tmp_path / name
        words = words_of(reviews, run, 1, "--precision", "fp32", "--epochs", 42, "--global_batch", 16)
        succeed(run_module(*map(str, words), timeout_s=600, **environment))
        losses.append(values_in_log(run, "loss"))
    assert len(losses[0]) >= 1000
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    memory = [line["memory_bytes"] for line in read_lines(tmp_path / "prefetched" / "throughput.jsonl")]
    assert memory[-1] <= 1.2 * memory[100]


@cuda_alone
def test_training_is_faster_than_a_notebooks_loop(reviews: Path) -> None:
    """On the same card, by as much as is expected of real rows."""
    words = ("--data", reviews, "--batch", 64, "--steps", 100, "--precision", "tf32", "--json")
    result = json.loads(succeed(run_module("benchmarks", "train", *words, timeout_s=600)).stdout)
    print(result)
    assert min(result["ratios"].values()) >= 3.0


@for_two_ranks
@pytest.mark.parametrize("micro_batch", ["null", 9])
def test_two_ranks_see_the_rows_of_one_and_learn_the_same(reviews: Path, tmp_path: Path, micro_batch: object) -> None:
    hashes, losses = [], []
    for processes in (1, 2):
        keys = ("--precision", "fp32", "--epochs", 2, "--global_batch", 32, "--model.wide", 1 << 12)
        keys += ("--micro_batch", micro_batch)
        run = tmp_path / f"run-{processes}"
        succeed(run_module(*map(str, words_of(reviews, run, processes, *keys))))
        hashes.append(values_in_log(run, "row_hash"))
        losses.append(values_in_log(run, "loss"))
    assert hashes[0] == hashes[1]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@contextmanager
def started(words: tuple[object, ...], run: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A training of two ranks that has made four steps; killed when the block ends."""
    environment = {"PET_SHUTDOWN_TIMEOUT": "15"}
    with log.open("w") as file:
        process = start_python(
            "-m", *words, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or steps_done(run) >= 4)
        yield process
    finally:
        if process.poll() is None:
            kill(process)


@for_two_ranks
@pytest.mark.parametrize("lose", [psutil.Process.kill, psutil.Process.suspend])
def test_a_lost_rank_is_noticed(reviews: Path, tmp_path: Path, lose: Callable[[psutil.Process], object]) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    with started(words_of(reviews, run, 2, "--epochs", 500, "--global_batch", 8), run, log) as process:
        lose(rank_of(run))
        assert process.wait(NOTICE_S) == 1, log.read_text()
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "rank" in status["reason"]
