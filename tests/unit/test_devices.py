# SPDX-License-Identifier: Apache-2.0
"""What a rank computes on and talks through: one rule for options, environment, hardware and the kernel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from harness.config import RunConfig
from harness.distributed import devices, session
from harness.distributed.devices import OMP, USE_CPU, Cuda, choose
from harness.distributed.precision import configure_threads
from harness.distributed.world import GLOO
from harness.launch import options
from harness.launch.options import TrainConfig
from harness.rundir.records import LAUNCH_ID
from harness.training.assembly import choose_layout
from padless.core.errors import ConfigError

NO_DEVICE = Cuda(num_devices=0, driver=None, build=None, visible=None)
ONE_DEVICE = Cuda(num_devices=1, driver="580.65.06", build="13.0", visible=None)
EIGHT_DEVICES = Cuda(num_devices=8, driver="580.65.06", build="13.0", visible="0,1,2,3,4,5,6,7")
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
    monkeypatch.setattr(options, "DEFAULT_FILE", str(tmp_path / "default_config.yaml"))


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
    """Devices that stay idle are named, with the option that takes them."""
    assert choose("auto", 2, ONE_DEVICE)[0] == "cpu"
    assert "--num_processes" not in choose("auto", 8, EIGHT_DEVICES)[1]
    kind, reason = choose("auto", 2, EIGHT_DEVICES)
    assert (kind, "--num_processes 8" in reason, "CUDA_VISIBLE_DEVICES" in reason) == ("cuda", True, True)
    monkeypatch.setenv(USE_CPU, "True")
    assert choose("auto", 2, EIGHT_DEVICES)[0] == "cpu"
    assert choose("cuda", 1, ONE_DEVICE)[0] == "cuda"


def test_too_few_are_refused_with_what_was_seen() -> None:
    no_device = "no CUDA device is visible (no NVIDIA driver is loaded, torch was built without CUDA"
    too_few = "2 processes cannot share 1 of them (the NVIDIA driver is 580.65.06, torch was built with"
    for processes, cuda, message in ((8, NO_DEVICE, no_device), (2, ONE_DEVICE, too_few)):
        with pytest.raises(ConfigError, match=f"{re.escape(message)}.*CUDA_VISIBLE_DEVICES is"):
            choose("cuda", processes, cuda)


TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020)."


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_driver_that_is_too_old_is_named_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """The driver's own library lists eight cards, and CUDA refuses them."""
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC\n"
    )

    def refuse() -> int:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(devices, "DRIVER_VERSION", version)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", refuse, raising=False)
    with pytest.raises(
        ConfigError, match=r"driver is 535\.183\.01, .*CUDA 13\.0.*too old.*install driver 580 or newer"
    ):
        choose(wanted, 1, devices.find_cuda())
    assert choose("cpu", 1, devices.find_cuda())[0] == "cpu"


def test_cards_are_counted_by_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice of a card (MIG) is one device, where the driver's own library counts eight cards."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1, raising=False)
    assert devices.find_cuda().num_devices == 1


def test_padded_layers_are_refused_where_cudnn_has_two_algorithms() -> None:
    config, device = RunConfig(recurrence="padded"), torch.device("cuda")
    assert choose_layout(config, device, 128)[0] == choose_layout(config, device, 193)[0] == "padded"
    for units in (129, 192):
        with pytest.raises(ConfigError, match=f"padded: with {units} hidden units"):
            choose_layout(config, device, units)


def test_torch_computes_with_the_threads_of_the_key_the_user_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a launcher, not the user, has set OMP_NUM_THREADS for its ranks."""
    num_threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(4 * cores))
        assert str(configure_threads("cpu")) == f"1: {SHARE}"
        assert str(configure_threads("cpu", 2)) == "2: asked for"
        assert resolve_config().threads is None
        monkeypatch.setenv(OMP, "3,2")
        assert resolve_config().threads == 3
        assert str(configure_threads("cpu")) == "2: as OMP_NUM_THREADS says"  # read when torch was loaded
        monkeypatch.setenv(LAUNCH_ID, "mine")
        assert str(configure_threads("cpu")) == f"1: {SHARE}"
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(num_threads)


def test_the_interface_of_the_route_or_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [SimpleNamespace(address="10.0.0.5"), SimpleNamespace(address="fe80::1%eth1")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth1": addresses})
    for address in ("10.0.0.5", "fe80::1"):
        monkeypatch.delenv(GLOO, raising=False)
        monkeypatch.setattr(session, "find_address", lambda host, port, address=address: address)
        assert session.name_interface() == f"eth1 ({address})"
        assert os.environ[GLOO] == "eth1"
    monkeypatch.setattr(session, "find_address", lambda host, port: None)
    assert session.name_interface() == "eth1"
    monkeypatch.delenv(GLOO)
    with pytest.raises(ConfigError, match=f"network interface: .*; name it, as in export {GLOO}=eth0"):
        session.name_interface()
