# SPDX-License-Identifier: Apache-2.0
"""Runs under launchers that are stopped, lose a rank or change their number of processes; a dry run; a pretraining."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.batch import StepBatch
from harness.metrics.figures import Scores
from harness.rundir.json_files import read_lines
from harness.training import validation
from harness.training.trainer import Trainer
from tests.helpers.commands import (
    CPU,
    later_wins,
    read_json,
    read_metrics,
    run_module,
    status_of,
    succeed,
    values_in_log,
)
from tests.helpers.datasets import shared_dataset
from tests.helpers.runs import (
    TRAINING,
    arguments,
    final,
    finish,
    launch,
    log,
    rank_of,
    start,
    train_to_end,
    wait_for_step,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400, func_only=True)]

NO_DROPOUT = ("--model.dropout", "0.0")


data = shared_dataset({"train": 900, "validation": 150, "test": 150})


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(data, run, *NO_DROPOUT), run)
    return run


def train_slowly() -> None:
    """On a rank: a step lasts longer than a twentieth of the half second after which a run looks for the STOP file."""
    update = Trainer.update

    def update_slowly(self: Trainer, batch: StepBatch) -> torch.Tensor:
        time.sleep(0.03)
        return update(self, batch)

    Trainer.update = update_slowly  # type: ignore[method-assign]


def stop_in_validation() -> None:
    """On a rank: a stop signal comes when the first validation begins."""
    score = validation.score_classifier

    def stop_and_score(*words: Any) -> Scores:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*words)

    validation.score_classifier = stop_and_score


@pytest.mark.slow
def test_any_number_of_processes_may_go_on(data: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for processes, steps, setup in ((2, 30, train_slowly), (1, 80, train_slowly), (4, 10_000, None)):
        process = start(data, run, *NO_DROPOUT, processes=processes, setup=setup)
        wait_for_step(process, run, steps)
        if processes != 4:
            assert process.poll() is None
            (run / "STOP").touch()
            finish(process, run, 85)
            assert not (run / "STOP").exists()
    finish(process, run)
    for name in ("row_hash", "rows"):
        assert values_in_log(run, name) == values_in_log(reference, name)
    assert values_in_log(run, "loss")[-1] == pytest.approx(values_in_log(reference, "loss")[-1], abs=1e-4)
    our_test, their_test = (read_json(path / "test.json") for path in (run, reference))
    assert our_test["log_loss"] == pytest.approx(their_test["log_loss"], abs=1e-4)


@pytest.mark.slow
def test_stopped_in_a_validation(data: Path, reference: Path, tmp_path: Path) -> None:
    """All steps of the first epoch are logged; its validation is not."""
    run = tmp_path / "run"
    finish(start(data, run, *NO_DROPOUT, setup=stop_in_validation), run, 85)
    newest = max((run / "checkpoints").iterdir())
    state = read_json(newest / "state.json")["trainer"]
    assert (state["epochs_done"], state["recurrence"]) == (0, "padded")
    assert (status_of(run)["step"], read_metrics(run, "validation")) == (57, [])
    finish(start(data, run, *NO_DROPOUT), run)
    assert read_metrics(run, "train") == read_metrics(reference, "train")
    assert final(run) == final(reference)


@pytest.mark.slow
def test_a_rank_that_dies_is_named_and_the_run_goes_on(data: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(data, run, *NO_DROPOUT)
    wait_for_step(process, run, 40)
    rank_of(run).kill()
    finish(process, run, 1)
    assert "rank 1 was killed by SIGKILL" in log(run)
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "rank 1 was killed by SIGKILL" in status["reason"]
    finish(start(data, run, *NO_DROPOUT), run)
    assert final(run) == final(reference)
    attempts = read_lines(run / "attempts.jsonl")
    assert len(attempts) == 2
    assert attempts[1]["resumed_from"] >= 22  # that of step 33 may have been in the making


def test_a_dry_run_tries_network_and_memory_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    result = train_to_end(*arguments(data, tmp_path / "runs/a"), "--dry_run", "true", processes=2)
    assert result.returncode == 0, result.stderr
    for line in (r"devices +no GPU is used", r"memory +\d+ MiB", r"full .*of training \("):
        assert re.search(f"^{line}", result.stdout, re.MULTILINE), result.stdout
    assert not re.search("^(finished|next) ", result.stdout, re.MULTILINE), "there is no run to report"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bare_accelerate_exits_with_1_and_the_status_says_why(data: Path, tmp_path: Path) -> None:
    keys = later_wins("--data", data, "--run", tmp_path / "run", *TRAINING, "--optim.lr", "1000")
    words = (*CPU, "--main_process_port=0", "-m", "harness.train", *keys)
    assert run_module("accelerate.commands.launch", *words, timeout_s=90).returncode == 1
    status = status_of(tmp_path / "run")
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert status["reason"].startswith("optim.lr: training diverged: at step 20 the loss is")


unlabelled = shared_dataset({"train": 60, "validation": 20, "test": 20, "unlabelled": 60}, longest=20)


def test_a_pretraining_ends_well_and_says_what_it_learned(unlabelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = ("--task", "language_model", "--language_model.candidates", 20, "--epochs", 2, "--global_batch", 20)
    result = train_to_end("--data", unlabelled, "--run", run, *TRAINING, *keys, processes=2)
    output = " ".join(succeed(result).stdout.split())
    assert f"padless train DATA --init.weights {run}" in output
    status, lines = status_of(run), read_metrics(run, "validation")
    assert (status["state"], status["step"]) == ("finished", 12)
    assert [(line["epoch"], line["rows"]) for line in lines] == [(1, 20), (2, 20)]
    assert read_metrics(run, "train")[-1]["rows"] == 240  # training and unlabelled rows, twice
    assert read_json(run / "bundle" / "bundle.json")["task"] == "language_model"
    assert not (run / "test.json").exists()
    perplexity = min(line["perplexity"] for line in lines)
    assert f"<span>Perplexity</span><strong>{perplexity:.4f}</strong>" in (run / "report.html").read_text()
