# SPDX-License-Identifier: Apache-2.0
"""Who asks for GPUs is one rule: a table of what was said, what is there, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.ranks import devices, precision
from harness.ranks.devices import Asked, Cuda, asked_by, choose, read_settings
from harness.ranks.session import with_index
from preprocessing.base.errors import ConfigError
from tests.commands import ROOT

NONE = Cuda(found=0, driver=False, build=None, visible=None)
ONE = Cuda(found=1, driver=True, build="12.8", visible=None)
EIGHT = Cuda(found=8, driver=True, build="12.8", visible="0,1,2,3,4,5,6,7")


@pytest.mark.parametrize(
    ("options", "settings", "asked"),
    [
        ([], None, "either"),
        (["--num_processes", "2"], None, "either"),
        (["--multi_gpu", "--num_processes", "2"], None, "gpu"),
        (["--gpu_ids", "0,1"], {"gpu_ids": None}, "gpu"),
        (["--gpu_ids=all"], None, "gpu"),
        (["--cpu"], {"gpu_ids": "all"}, "cpu"),
        ([], {"gpu_ids": "all"}, "gpu"),
        ([], {"gpu_ids": "all", "use_cpu": True}, "cpu"),
        ([], {"distributed_type": "MULTI_GPU"}, "cpu"),
    ],
)
def test_what_was_asked_for(options: list[str], settings: dict[str, Any] | None, asked: Asked) -> None:
    assert asked_by(options, settings) == asked


def test_a_rank_stands_on_its_own_device_before_it_asks_what_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question opens a context on the device; all ranks would hold memory of the first one."""
    stands_on: list[int] = []

    def asked(including_emulation: bool) -> bool:
        assert stands_on == [5]
        return True

    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "set_device", stands_on.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert precision.choose_precision("auto", "cuda").value == "bf16"


def test_the_shipped_files_ask_for_what_their_names_say() -> None:
    for name, asked in (("cpu", "cpu"), ("gpu", "gpu"), ("multi_gpu", "gpu"), ("multi_node", "gpu")):
        options = ["--config_file", str(ROOT / f"configs/accelerate/{name}.yaml")]
        assert asked_by(options, read_settings(options)) == asked
        assert read_settings([f"--config_file={options[1]}"]) == read_settings(options)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"--config_file .*bad\.yaml: not readable as YAML"):
        read_settings(["--config_file", str(tmp_path / "bad.yaml")])
    assert read_settings(["--config_file", str(tmp_path / "none.yaml")]) is None
    assert read_settings([], tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    ("wanted", "asked", "processes", "cuda", "device"),
    [
        ("cpu", "gpu", 8, EIGHT, "cpu"),
        ("auto", "cpu", 2, ONE, "cpu"),
        ("auto", "cpu", 2, EIGHT, "cpu"),
        ("auto", "either", 2, ONE, "cpu"),
        ("auto", "either", 1, ONE, "cuda"),
        ("auto", "either", 2, EIGHT, "cuda"),
        ("auto", "either", 2, NONE, "cpu"),
        ("auto", "gpu", 8, EIGHT, "cuda"),
        ("cuda", "cpu", 1, ONE, "cuda"),
        ("cuda", "either", 1, ONE, "cuda"),
    ],
)
def test_what_a_rank_trains_on(wanted: str, asked: Asked, processes: int, cuda: Cuda, device: str) -> None:
    assert choose(wanted, asked, processes, cuda)[0] == device


@pytest.mark.parametrize(
    ("wanted", "asked", "processes", "cuda", "said"),
    [
        ("auto", "gpu", 8, NONE, "no CUDA device is visible (no NVIDIA driver is loaded, torch was built without CUDA"),
        ("auto", "gpu", 2, ONE, "2 processes cannot share 1 of them (an NVIDIA driver is loaded, torch was built with"),
        ("cuda", "cpu", 1, NONE, "device: cuda asks for GPUs, but no CUDA device is visible"),
        ("cuda", "either", 9, EIGHT, "start 8, or --device cpu"),
    ],
)
def test_too_few_are_refused_with_what_was_seen(
    wanted: str, asked: Asked, processes: int, cuda: Cuda, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(wanted, asked, processes, cuda)
    assert said in str(caught.value)
    assert "CUDA_VISIBLE_DEVICES is" in str(caught.value)


def test_a_rank_is_told_by_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.ASKED, "gpu")
    assert devices.asked_here() == "gpu"
    monkeypatch.delenv(devices.ASKED)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(devices, "options_of_parent", lambda: ["--multi_gpu"])
    assert devices.asked_here() == "gpu"
    monkeypatch.setattr(devices, "options_of_parent", lambda: None)
    assert devices.asked_here() == "either"


def test_a_device_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert with_index(torch.device("cuda")) == torch.device("cuda", 3)
    assert with_index(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert with_index(torch.device("cpu")) == torch.device("cpu")
