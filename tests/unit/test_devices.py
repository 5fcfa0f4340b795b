# SPDX-License-Identifier: Apache-2.0
"""What a rank computes on and talks through: one rule for options, environment, hardware and the kernel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from harness.config import Choice, RunConfig
from harness.launch.options import TrainConfig, accelerate_arguments
from harness.ranks import devices, network, precision, session
from harness.ranks.devices import OMP, USE_CPU, Cuda, choose
from harness.ranks.network import GLOO
from harness.ranks.precision import ALLOCATOR, configure_threads
from harness.rundir.records import LAUNCH_ID
from preprocessing.base.errors import ConfigError
from tests.commands import ROOT

NONE = Cuda(found=0, driver=False, build=None, visible=None)
ONE = Cuda(found=1, driver=True, build="12.8", visible=None)
EIGHT = Cuda(found=8, driver=True, build="12.8", visible="0,1,2,3,4,5,6,7")
SHARE = "this process's share of the cores"


@pytest.fixture(autouse=True)
def nobody_said_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))


def asked_by(**options: Any) -> RunConfig:
    return accelerate_arguments(TrainConfig(num_processes=3, **options), RunConfig())[1]


def test_what_was_asked_for(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    assert asked_by().device == "auto"
    mine.write_text("distributed_type: MULTI_GPU\ngpu_ids: null")
    assert asked_by(gpu_ids="0,1", config_file=str(mine)).device == "cuda"
    mine.write_text("distributed_type: MULTI_GPU")
    assert asked_by(config_file=str(mine)).device == "cpu"


def test_the_shipped_files_ask_for_what_their_names_say() -> None:
    for name, asked in (("cpu", "cpu"), ("gpu", "cuda"), ("multi_gpu", "cuda"), ("multi_node", "cuda")):
        assert asked_by(config_file=str(ROOT / f"configs/accelerate/{name}.yaml")).device == asked


def test_what_a_rank_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", 2, ONE)[0] == "cpu"
    assert choose("auto", 2, EIGHT)[0] == "cuda"
    monkeypatch.setenv(USE_CPU, "True")
    assert choose("auto", 2, EIGHT)[0] == "cpu"
    assert choose("cuda", 1, ONE)[0] == "cuda"


@pytest.mark.parametrize("own", [None, *ALLOCATOR])
def test_batches_of_many_lengths_do_not_cut_the_memory_of_a_card_up(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before CUDA starts, and not where the user has set the allocator."""
    for name in ALLOCATOR:
        monkeypatch.setenv(name, "max_split_size_mb:64")
        if name != own:
            monkeypatch.delenv(name)

    def started(*_: object) -> Choice:
        raise RuntimeError([os.environ.get(name) for name in ALLOCATOR])

    monkeypatch.setattr(session, "choose_device", lambda wanted: Choice("cuda", ""))
    monkeypatch.setattr(session, "choose_precision", started)
    theirs = ["max_split_size_mb:64" if name == own else None for name in ALLOCATOR]
    with (
        pytest.raises(RuntimeError, match=re.escape(str(theirs if own else ["expandable_segments:True", None]))),
        session.open_session("auto", "auto", 60),
    ):
        pass


def test_too_few_are_refused_with_what_was_seen() -> None:
    none = "no CUDA device is visible (no NVIDIA driver is loaded, torch was built without CUDA"
    one = "2 processes cannot share 1 of them (an NVIDIA driver is loaded, torch was built with"
    for processes, cuda, said in ((8, NONE, none), (2, ONE, one)):
        with pytest.raises(ConfigError, match=f"{re.escape(said)}.*CUDA_VISIBLE_DEVICES is"):
            choose("cuda", processes, cuda)


@pytest.mark.parametrize(("given", "omp", "threads"), [(2, "3", 2), (None, "3,2", 3), (None, "", None)])
def test_the_threads_that_the_user_gave(
    monkeypatch: pytest.MonkeyPatch, given: int | None, omp: str, threads: int | None
) -> None:
    monkeypatch.setenv(OMP, omp)
    assert asked_by(num_cpu_threads_per_process=given).threads == threads


def test_torch_computes_with_the_threads_of_the_key_the_user_or_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a launcher, not the user, has set OMP_NUM_THREADS for its ranks."""
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    monkeypatch.delenv(devices.CHOSEN, raising=False)
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
        torch.set_num_threads(before)


def test_a_rank_stands_on_its_own_device_before_it_asks_what_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query creates a CUDA context on the current device; otherwise all ranks would use memory of the first one."""
    stands_on = []

    def asked(including_emulation: bool) -> bool:
        assert stands_on == [5]
        return True

    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "set_device", stands_on.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert precision.choose_precision("auto", "cuda").value == "bf16"


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_tf32_on_cards_that_have_it(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    if runs:
        assert str(precision.choose_precision("tf32", "cuda")) == "tf32: asked for"
    else:
        with pytest.raises(ConfigError, match=r"tf32 cannot run on cuda here; it can run fp32, fp16$"):
            precision.choose_precision("tf32", "cuda")
    with pytest.raises(ConfigError, match="tf32 cannot run on cpu here"):
        precision.choose_precision("tf32", "cpu")


FOUND = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.168.1.5"], "eth1": ["10.0.0.5", "fe80::1%eth1"]}


@pytest.fixture
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        name: [SimpleNamespace(address=own, family=AF_INET6 if ":" in own else AF_INET) for own in every]
        for name, every in FOUND.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: held)


@pytest.mark.usefixtures("interfaces")
@pytest.mark.parametrize(
    ("own", "said"),
    [("10.0.0.5", "eth1 (10.0.0.5)"), ("fe80::1", "eth1 (fe80::1)"), ("127.0.0.1", "lo (127.0.0.1)"), (None, "")],
)
def test_the_interface_of_the_route(own: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "own_address", lambda host, port: own)
    if own is None:
        with pytest.raises(ConfigError, match="network interface: unclear which leads to node-1; name it, as in"):
            network.name_interface("node-1", 1)
    else:
        assert network.name_interface("node-1", 1) == said
        assert os.environ[GLOO] == said.partition(" ")[0]


@pytest.mark.usefixtures("interfaces")
def test_the_users_interface_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO, "eth0")
    assert network.name_interface("10.0.0.1", 1) == "eth0 (192.168.1.5)"
    monkeypatch.setenv(GLOO, "eth7")
    with pytest.raises(ConfigError, match="network interface: eth7: no such interface with an address is here; name"):
        network.name_interface("10.0.0.1", 1)


def test_only_where_the_main_address_is_one_a_loopback_address_leads_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network.own_address("127.0.0.1", 1) == "127.0.0.1"
    monkeypatch.setattr(network, "ELSEWHERE", "127.0.0.2")
    found = (AF_INET, SOCK_DGRAM, 0, "", ("127.0.1.1", 1))
    monkeypatch.setattr(network.socket, "getaddrinfo", lambda *_, **__: [found])
    assert network.own_address("node-1", 1) is None
