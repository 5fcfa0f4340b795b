# SPDX-License-Identifier: Apache-2.0
"""Machines that seem to have CUDA devices, or none where they were asked for: who gets what, under real launchers."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.commands import CPU, PLAIN, ROOT, free_port, run_module, sentence, succeed
from tests.datasets import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400, func_only=True)]
SITE = """
import os, sys
if "torch" not in sys.modules:
    import torch
    torch.cuda.device_count = lambda: int(os.environ["SEEMING_CARDS"])
    torch.cuda.is_available = lambda: False
"""
"""A ``sitecustomize`` module: every interpreter, those of the ranks too, counts so many devices."""
SMALL = (
    *PLAIN,
    *("--model.embedding_dim", 8, "--model.hidden_size", 8),
    *("--epochs", 1, "--precision", "fp32", "--timeout_s", 60),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cards") / "data"
    write_dataset(path, {"train": 128, "validation": 32, "test": 32})
    return path


@pytest.fixture
def seeming(tmp_path: Path) -> str:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    return f"{tmp_path / 'site'}:{ROOT}"


@pytest.mark.parametrize("cards", [1, 8])
def test_the_quickstart_trains_on_the_cpu_whatever_cards_there_are(
    data: Path, tmp_path: Path, seeming: str, cards: int
) -> None:
    where = ("--data", data, "--run", tmp_path / "run")
    environment = {"PYTHONPATH": seeming, "SEEMING_CARDS": str(cards)}
    result = succeed(run_module("harness", "launch", *CPU, *where, *SMALL, timeout_s=120, **environment))
    assert "device     cpu: accelerate's configuration names no gpu_ids" in result.stdout
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    bare = ("--main_process_port", free_port(), "-m", "harness.evaluate", *where)
    evaluated = run_module("accelerate.commands.launch", *CPU, *bare, timeout_s=120, **environment)
    assert re.search(r"^ +test  95 %\nrows +32$", succeed(evaluated).stdout, re.MULTILINE)


def test_gpus_that_are_not_there_are_refused(data: Path, tmp_path: Path) -> None:
    where = ("--data", data, "--run", tmp_path / "run")
    file = ("--config_file", ROOT / "configs/accelerate/multi_gpu.yaml")
    result = run_module("harness", "launch", *file, *where, *SMALL, timeout_s=60)
    assert result.returncode == 2
    said = sentence(result)
    assert said.startswith("device: gpu_ids, --multi_gpu or --gpu_ids asks for GPUs, but no CUDA device is visible (")
    assert "CUDA_VISIBLE_DEVICES is" in said
    assert not (tmp_path / "run").exists()
    port = ("--main_process_port", free_port(), "--num_processes", 2, "-m", "harness.train")
    bare = run_module("accelerate.commands.launch", *file, *port, *where, *SMALL, timeout_s=90)
    assert bare.returncode == -signal.SIGUSR1  # the launcher is ended before its traceback; 138 to a shell
    assert "asks for GPUs, but no CUDA device is visible" in bare.stderr
    succeed(run_module("harness", "launch", *file, "--num_processes", 1, *where, *SMALL, "--device", "cpu"))
