# SPDX-License-Identifier: Apache-2.0
"""Output of the doctor about a machine, a dataset, a run directory and several, partly simulated, ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config import OptimConfig, RunConfig
from harness.launch import checkup
from harness.launch.checkup import DATASET, Finding, compare
from harness.launch.doctor import report
from harness.ranks import devices
from harness.ranks.devices import Cuda
from harness.ranks.distributed import World
from preprocessing.base.errors import UserError
from tests.datasets import write_dataset

GB = 10**9


@pytest.mark.parametrize(
    ("cards", "processes", "device", "state", "words"),
    [
        (2, 2, "auto", "ok", "H100 (79.0 GB of 80.0 GB free), H100 (79.0 GB of 80.0 GB free)"),
        (0, 1, "cuda", "fix", "device: cuda asks for GPUs, but no CUDA device is visible (no NVIDIA driver"),
        (2, 3, "auto", "warn", "training runs on the CPU: 3 processes and 2 CUDA devices; --num_processes 2"),
        (3, 3, "auto", "warn", "other programs take memory of GPU 2; see nvidia-smi"),
    ],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, cards: int, processes: int, device: str, state: str, words: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv(devices.DEVICES, "either")
    monkeypatch.setattr(devices, "look", lambda: Cuda(cards, bool(cards), "12.8" if cards else None, None))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: ((79 if place < 2 else 9) * GB, 80 * GB))
    config = RunConfig(device=device)  # type: ignore[arg-type]
    found = checkup.judged(lambda: checkup.look_at_gpus(config))
    assert (found[0], words in found[1]) == (state, True), found


def test_a_dataset_and_what_a_run_on_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", {"train": 64, "validation": 10, "test": 10})
    config = RunConfig(data=str(tmp_path / "data"), run=str(tmp_path / "deep" / "run"), optim=OptimConfig(ema=0.99))
    state, message = checkup.look_at_data(config, {})
    assert (state, "64 training rows" in message) == ("ok", True)
    found = checkup.look_at_run(config)
    assert (found[0], found[1].endswith("needed; the run begins at step 0")) == ("ok", True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**6, used=10**6, free=1000))
    found = checkup.look_at_run(config)
    assert (found[0], "needed; make room, or name another directory with --run" in found[1]) == ("fix", True)


class Two(World):
    """A world of two ranks with different versions of torch."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [value, {**value, "torch": "2.12"}] if isinstance(value, dict) else [value]


def test_ranks_must_be_alike() -> None:
    facts = {"torch": "2.13", "device": "cuda", "precision": "bf16: asked for", DATASET: "a"}
    assert compare(World(), facts) == Finding("versions", "ok", "torch 2.13")
    said = "rank 1 has torch 2.12, rank 0 has 2.13: start all ranks alike"
    assert compare(Two(), facts) == Finding("versions", "fix", said)


def test_a_line_names_its_machine_and_what_is_to_be_fixed_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    said = "no CUDA device is visible: the driver may be too old for CUDA 13.0, which torch was built with"
    lines = [Finding("gpus", "ok", "2", "n1"), Finding("gpus", "fix", said, "a-machine-with-a-long-name.cluster")]
    assert (report(lines[:1], as_json=False), report(lines, as_json=False)) == (0, 2)
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("fix   gpus           a-machine-with-a-long-name.cluster: no CUDA device is")
    assert max(map(len, shown)) <= 80


def test_a_precision_that_cannot_be_is_to_be_fixed() -> None:
    assert checkup.look_at_precision(RunConfig(device="cpu", precision="fp32"), {}) == ("ok", "fp32: asked for, on cpu")
    with pytest.raises(UserError, match="precision: fp16 cannot run on cpu here;"):
        checkup.look_at_precision(RunConfig(device="cpu", precision="fp16"), {})
