# SPDX-License-Identifier: Apache-2.0
"""What a rank computes on and talks through: one rule for options, environment, hardware and the kernel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from harness.distributed import network, precision
from harness.distributed.devices import OMP, USE_CPU, Cuda, choose
from harness.distributed.network import GLOO
from harness.distributed.precision import configure_threads
from harness.launch import options
from harness.launch.options import TrainConfig
from harness.rundir.records import LAUNCH_ID
from padless.core.errors import ConfigError

NO_DEVICE = Cuda(num_devices=0, driver=False, build=None, visible=None)
ONE_DEVICE = Cuda(num_devices=1, driver=True, build="12.8", visible=None)
EIGHT_DEVICES = Cuda(num_devices=8, driver=True, build="12.8", visible="0,1,2,3,4,5,6,7")
SHARE = "this process's share of the cores"


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "LOCAL_RANK",
        "RANK",
        "LOCAL_WORLD_SIZE",
        "ACCELERATE_MIXED_PRECISION",
        USE_CPU,
        LAUNCH_ID,
        OMP,
        GLOO,
    ):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(options, "HF_HOME", str(tmp_path))


def resolve_config(**keys: Any) -> TrainConfig:
    return options.complete_options(TrainConfig(num_processes=4, main_process_ip="n", main_process_port=1, **keys))


@pytest.mark.parametrize(
    ("file", "device"),
    [
        ("", "auto"),
        ("distributed_type: MULTI_GPU\ngpu_ids: null", "cpu"),
        ("distributed_type: MULTI_GPU\ngpu_ids: all", "cuda"),
        *[("cpu", "cpu"), ("gpu", "cuda"), ("multi_gpu", "cuda"), ("multi_node", "cuda")],
    ],
)
def test_the_device_of_a_configuration_file(tmp_path: Path, file: str, device: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(file)
    config_file = str(path) if ":" in file else file or None
    assert resolve_config(config_file=config_file).device == device


def test_what_a_rank_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", 2, ONE_DEVICE)[0] == "cpu"
    assert choose("auto", 2, EIGHT_DEVICES)[0] == "cuda"
    monkeypatch.setenv(USE_CPU, "True")
    assert choose("auto", 2, EIGHT_DEVICES)[0] == "cpu"
    assert choose("cuda", 1, ONE_DEVICE)[0] == "cuda"


def test_too_few_are_refused_with_what_was_seen() -> None:
    no_device = "no CUDA device is visible (no NVIDIA driver is loaded, torch was built without CUDA"
    too_few = "2 processes cannot share 1 of them (an NVIDIA driver is loaded, torch was built with"
    for processes, cuda, message in ((8, NO_DEVICE, no_device), (2, ONE_DEVICE, too_few)):
        with pytest.raises(ConfigError, match=f"{re.escape(message)}.*CUDA_VISIBLE_DEVICES is"):
            choose("cuda", processes, cuda)


@pytest.mark.parametrize(("omp", "threads"), [("3,2", 3), ("", None)])
def test_the_threads_that_the_user_gave(monkeypatch: pytest.MonkeyPatch, omp: str, threads: int | None) -> None:
    monkeypatch.setenv(OMP, omp)
    assert resolve_config().threads == threads


def test_torch_computes_with_the_threads_of_the_key_the_user_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a launcher, not the user, has set OMP_NUM_THREADS for its ranks."""
    num_threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(4 * cores))
        assert str(configure_threads("cpu")) == f"1: {SHARE}"
        assert str(configure_threads("cpu", 2)) == "2: asked for"
        monkeypatch.setenv(OMP, "3")
        assert str(configure_threads("cpu")) == "2: as OMP_NUM_THREADS says"  # read when torch was loaded
        monkeypatch.setenv(LAUNCH_ID, "mine")
        assert str(configure_threads("cpu")) == f"1: {SHARE}"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize("wanted", ["tf32", "fp16"])
def test_a_precision_that_the_device_lacks(wanted: Any) -> None:
    with pytest.raises(ConfigError, match=f"{wanted} cannot run on cpu here; it can run fp32"):
        precision.choose_precision(wanted, "cpu")


def test_the_interface_of_the_route_or_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = SimpleNamespace
    addresses_by_interface = {
        "eth1": [entry(address="10.0.0.5", family=AF_INET), entry(address="fe80::1%eth1", family=AF_INET6)]
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addresses_by_interface)
    for address in ("10.0.0.5", "fe80::1"):
        monkeypatch.delenv(GLOO, raising=False)
        monkeypatch.setattr(network, "find_address", lambda host, port, address=address: address)
        assert network.name_interface() == f"eth1 ({address})"
        assert os.environ[GLOO] == "eth1"
    for users, problem in (("eth7", "eth7: no such interface with an address is here"), ("", "unclear which leads to")):
        monkeypatch.setenv(GLOO, users)
        monkeypatch.setattr(network, "find_address", lambda host, port: None)
        with pytest.raises(ConfigError, match=f"network interface: {problem}.*; name it, as in export {GLOO}=eth0"):
            network.name_interface()
