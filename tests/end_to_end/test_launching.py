# SPDX-License-Identifier: Apache-2.0
"""Ranks under real launchers: the doctor, existing and missing GPUs, and one rank that fails alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import CPU, ROOT, accelerate, free_port, run_module, status_of, succeed
from tests.datasets import shared_dataset
from tests.runs import TRAINING, launch, train_to_end

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400, func_only=True)]
LIKE_NCCL = """
import os, sys, time
if "RANK" in os.environ and "torch" not in sys.modules:
    import torch.distributed
    from harness.ranks import distributed
    from harness.training.trainer import Trainer
    torch.distributed.destroy_process_group = lambda: time.sleep(3600)
    update = Trainer.update
    def failing(self, batch):
        if self.step == 20 and os.environ["RANK"] == "1":
            raise KeyError("planted")
        return update(self, batch)
    Trainer.update = failing
    distributed.LostPeerError.__init__ = lambda self, *_: os.abort()
"""
"""A ``sitecustomize`` module: rank 1 fails alone, leaving the process group waits for ranks that do not come, and a
rank whose peer is gone is aborted, as NCCL's watchdog does."""


data = shared_dataset({"train": 1500, "validation": 300, "test": 32})


def paths_with(folder: Path, module: str) -> str:
    """A PYTHONPATH that makes every interpreter import this module first."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(module)
    return f"{folder / 'site'}:{ROOT}"


def test_the_doctor_lets_ranks_meet_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    where = ("--data", data, "--run", tmp_path / "runs" / "a", "--device", "cpu", "--precision", "fp32")
    options = (*CPU, "--main_process_port", free_port())
    report = json.loads(succeed(run_module("harness", "doctor", *options, *where, "--json", timeout_s=90)).stdout)
    lines = {finding["check"]: finding["message"] for finding in report["findings"]}
    assert report["exit_code"] == 0
    assert lines["rendezvous"].startswith("2 ranks on 1 machine met in ")
    assert lines["all-reduce"].startswith("10 MB over gloo in ")
    assert "1,500 training rows" in lines["data"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("launcher", ["none", pytest.param("accelerate", marks=pytest.mark.slow)])
def test_without_our_launcher_the_status_says_why_too(data: Path, tmp_path: Path, launcher: str) -> None:
    words = ("StopWatch", 1, "--data", data, "--run", tmp_path / "run", *TRAINING)
    if launcher == "accelerate":
        ended = accelerate("tests.planted", *words, timeout_s=90)
    else:
        ended = train_to_end(*words, processes=2, module="tests.planted")
    assert ended.returncode == 1
    status = status_of(tmp_path / "run")
    said = "rank 1: PlantedError: planted in StopWatch"
    assert (status["state"], status["exit_code"], status["reason"]) == ("failed", 1, said)


@pytest.mark.slow
def test_a_rank_that_fails_alone_is_the_cause_and_hangs_nobody(data: Path, tmp_path: Path) -> None:
    """The time limit is an hour; this test allows for five minutes."""
    process = launch(data, tmp_path / "run", "--timeout_s", "3600", paths=paths_with(tmp_path, LIKE_NCCL))
    assert process.wait(300) == 1, (tmp_path / "log").read_text()
    assert status_of(tmp_path / "run")["reason"] == "rank 1: KeyError: 'planted'"
