# SPDX-License-Identifier: Apache-2.0
"""Before a training: what the doctor says of a machine, a dataset, a run directory and several, partly simulated,
ranks; and settings that do not fit rows, memory or machines.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config import RunConfig
from harness.data.checks import imbalance
from harness.launch import checkup
from harness.launch.checkup import Finding
from harness.launch.doctor import report
from harness.ranks import devices
from harness.ranks.devices import Cuda
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from harness.training.assembly import check_shared
from preprocessing.base.errors import ConfigError, DataError

GB = 10**9


def on(device: str) -> Any:
    """The session of a rank on this device."""
    choices = {"device": Choice(device, "3 processes and 2 CUDA devices"), "precision": Choice("fp32", "asked for")}
    return SimpleNamespace(device=torch.device(device), choices=choices)


@pytest.mark.parametrize(
    ("cards", "processes", "device", "state", "words"),
    [
        (2, 2, "cuda", "ok", "H100 (79.0 GB of 80.0 GB free), H100 (79.0 GB of 80.0 GB free)"),
        (2, 3, "cpu", "warn", "none are used: 3 processes and 2 CUDA devices (an NVIDIA driver"),
        (3, 3, "cuda", "ok", "H100 (9.0 GB of 80.0 GB free)"),
        (3, 2, "cuda", "warn", "2 of 3 used; pass --num_processes to use all"),
    ],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, cards: int, processes: int, device: str, state: str, words: str) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(devices, "look", lambda: Cuda(cards, bool(cards), "12.8" if cards else None, None))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: ((79 if place < 2 else 9) * GB, 80 * GB))
    found = checkup.look_at_gpus(RunConfig(), on(device))
    assert (found[0], words in found[1]) == (state, True), found


class Two(World):
    """A world of two ranks with different versions of torch."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [value, {**value, "torch": "2.12"}] if isinstance(value, dict) else [value]


def test_ranks_must_be_alike() -> None:
    facts = {"torch": "2.13", "dataset": "a"}
    World().handshake(facts)
    with pytest.raises(ConfigError, match=r"rank 1 has torch 2.12, rank 0 has 2.13: start all ranks alike"):
        Two().handshake(facts)


def test_a_line_names_its_machine_and_what_is_to_be_fixed_is_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    said = "no CUDA device is visible: the driver may be too old for CUDA 13.0, which torch was built with"
    lines = [Finding("gpus", "ok", "2", "n1"), Finding("gpus", "fix", said, "a-machine-with-a-long-name.cluster")]
    assert (report(lines[:1], as_json=False), report(lines, as_json=False)) == (0, 2)
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("fix   gpus           a-machine-with-a-long-name.cluster: no CUDA device is")
    assert max(map(len, shown)) <= 80


def test_the_precision_is_said_and_a_check_that_fails_is_to_be_fixed() -> None:
    assert checkup.look_here(RunConfig(run="none"), on("cpu"))[0] == Finding("precision", "ok", "fp32: asked for")

    def fail() -> Any:
        raise RuntimeError("no kernel image\nis available")

    assert checkup.judged("gpus", fail) == Finding("gpus", "fix", "no kernel image is available")


def test_imbalance_says_what_to_do() -> None:
    assert imbalance({"no": 450, "yes": 100}, {}) is None
    assert imbalance({"no": 9000, "yes": 100}, {}) == (
        "'yes' has 1.1% of the rows, 'no' 90 times as many: accuracy says little of it; look at balanced accuracy, and "
        "weigh small classes with optim.class_weights"
    )
    assert imbalance({"no": 9000, "yes": 100}, {"yes": 3.0}) is None
    assert imbalance({"no": 9000, "yes": 100}, {}, "f1") is None


class OnAnotherMachine(World):
    """A rank to which rank 0 names a file that it does not have; otherwise a world of one process."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [".seen-there" if "file" in what else value]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.usefixtures("several")
def test_rank_0_sees_its_own_file_and_removes_it(tmp_path: Path) -> None:
    check_shared(tmp_path, World())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=rf"^{tmp_path / 'gone'}.*: gone while it was needed .*; put it back"):
        check_shared(tmp_path / "gone", World())


@pytest.mark.usefixtures("several")
def test_a_machine_with_a_directory_of_its_own_says_so(tmp_path: Path) -> None:
    started = time.monotonic()
    said = rf"run: {tmp_path} on .* is not the directory that rank 0 writes to"
    with pytest.raises(ConfigError, match=said):
        check_shared(tmp_path, OnAnotherMachine(rank=1, timeout_s=1))
    assert time.monotonic() - started < 60
