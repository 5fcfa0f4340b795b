# SPDX-License-Identifier: Apache-2.0
"""What a process sees of its machine: devices, cores, limits, file systems. Measured here, judged in diagnosis.py."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
import time
import uuid
from pathlib import Path

import torch

from harness.config import RunConfig
from harness.data import placement
from harness.data.checks import TRAIN
from harness.launch.facts import Data, Gpu, Machine, Rank, RunFolder
from harness.model.recurrent import VariableLengthLSTM, try_recurrence
from harness.model.registry import parameters_of
from harness.ranks import devices, network
from harness.ranks.distributed import (
    launched_local_rank,
    launched_local_world_size,
    launched_rank,
    launched_world_size,
)
from harness.ranks.precision import (
    Arithmetic,
    as_arithmetic,
    choose_device,
    choose_precision,
    configure_threads,
    layout_on,
    recurrent_dtype,
)
from harness.rundir.records import installed_version
from harness.training import preflight, resume
from preprocessing.base import atomic
from preprocessing.base.errors import UserError
from preprocessing.base.printable import size
from preprocessing.dataset.shards import Manifest

OTHER_CHECKPOINTS = 2
"""Beside the newest ones that are kept: that of the best validation, and the one being written. Each holds weights,
Adam's two averages and the averaged weights, if there are any, in fp32."""


def look_at_machine(config: RunConfig, manifest: Manifest | None) -> Machine:
    """Devices, cores and limits. Only one process per machine should ask: each GPU's memory is looked at."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    shards = sum(len(infos) for infos in manifest.splits.values()) if manifest is not None else 0
    slurm_cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return Machine(
        host=platform.node(),
        processes=launched_local_world_size(),
        device=config.device,
        asked=devices.asked_here()[0],
        gpus=tuple(look_at_gpus()),
        driver=Path("/proc/driver/nvidia/version").exists(),
        cuda_build=torch.version.cuda,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        cores=len(os.sched_getaffinity(0)),
        all_cores=os.cpu_count() or 1,
        quota=cpu_quota(),
        threads=torch.get_num_threads(),
        slurm_cpus=int(slurm_cpus) if slurm_cpus.isdigit() else None,
        open_files=(unlimited(soft), unlimited(hard)),
        shards=shards,
        memlock=None if locked == resource.RLIM_INFINITY else locked,
        infiniband=any(Path("/sys/class/infiniband").glob("*")),
        shm=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        machines=launched_world_size() // launched_local_world_size(),
        own_address=own_address(),
        route=network.find(os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))),
    )


def look_at_gpus() -> list[Gpu]:
    """Every visible device, with bytes of memory."""
    gpus = []
    for place in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(place)
        gpus.append(Gpu(torch.cuda.get_device_name(place), total, free))
    return gpus


def own_address() -> str | None:
    """The IPv4 address that this machine's own name resolves to; gloo offers it to the other machines."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None


def unlimited(limit: int) -> int:
    """A limit as a number that compares."""
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def cpu_quota(root: str | Path = "/sys/fs/cgroup", membership: str | None = None) -> float | None:
    """CPUs' worth of time that this process's control groups (version 2) grant, None without a limit.

    ``membership`` is the text of ``/proc/self/cgroup`` (cgroups(7)).
    """
    if membership is None:
        try:
            membership = Path("/proc/self/cgroup").read_text(encoding="utf-8")
        except OSError:
            return None
    path = next((line[3:].lstrip("/") for line in membership.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    quotas = []
    for folder in (Path(root, path), *Path(root, path).parents):
        try:
            granted, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            continue
        if granted != "max":
            quotas.append(int(granted) / int(period))
    return min(quotas, default=None)


def look_at_data(config: RunConfig, world_size: int) -> tuple[Data, Manifest | None]:
    """The dataset, checked as training checks it, hashes apart; and where its rows would live."""
    host, kind = platform.node(), placement.filesystem(config.data)
    try:
        manifest = preflight.check_data(config, world_size, here=launched_local_world_size(), hashes=False)
    except UserError as error:
        return Data(host, config.data, kind, problem=str(error)), None
    staging = placement.stage_choice(config.data, manifest, list(manifest.splits), config.stage_dir)
    held = sum(info.bytes for shards in manifest.splits.values() for info in shards)
    data = Data(
        host,
        config.data,
        kind,
        fingerprint=manifest.fingerprint,
        summary=f"{manifest.rows(TRAIN):,} training rows, {size(held)}",
        staging=str(staging),
        mapped_over_network=placement.is_network(kind) and staging.value == "none",
    )
    return data, manifest


def look_at_run(config: RunConfig, manifest: Manifest | None) -> RunFolder:
    """The run directory, or the directory above that it would be made in; proves that a file can appear there."""
    host, kind = platform.node(), placement.filesystem(config.run)
    path = existing(config.run)
    try:
        seconds = probe(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror}); name a directory you may write, with --run"
        return RunFolder(host, config.run, kind, problem=problem)
    try:
        point = preflight.check_run(config, lambda _: None, lambda _: None)
        if manifest is not None and point.checkpoint is None:
            preflight.check_start(config, manifest)
    except UserError as error:
        return RunFolder(host, config.run, kind, problem=str(error))
    needed = 0
    if manifest is not None:
        parameters = parameters_of(config, manifest)
        numbers = 3 if config.optim.ema is None else 4
        needed = (config.checkpoint.keep_last + OTHER_CHECKPOINTS) * 4 * numbers * parameters
    return RunFolder(
        host, config.run, kind, shutil.disk_usage(path).free, needed, fsync_s=seconds, state=describe_point(point)
    )


def describe_point(point: resume.ResumePoint) -> str | None:
    """What a training would make of the run that is there; None where there is none."""
    if point.finished:
        return "the run has finished already"
    if point.checkpoint is not None:
        return f"the run goes on from step {point.checkpoint.step:,}"
    return "the run begins anew: it has no checkpoint" if point.begun else None


def existing(path: str | Path) -> Path:
    """``path``, or the nearest directory above it that is there."""
    path = Path(path).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def probe(folder: Path) -> float:
    """Write, flush and rename a small file as checkpoints are written; the seconds it took. Raises ``OSError``."""
    name = folder / f".padless-doctor-{uuid.uuid4().hex}"
    started = time.perf_counter()
    try:
        atomic.write_bytes(name, b"padless")
        seconds = time.perf_counter() - started
        if name.read_bytes() != b"padless":
            raise OSError(5, "what was written does not come back")
    finally:
        name.unlink(missing_ok=True)
    return seconds


def look_at_rank(config: RunConfig) -> Rank:
    """Device and arithmetic as training would choose them, tried out on a small recurrent step, and versions."""
    host, rank, versions = platform.node(), launched_rank(), look_at_versions()
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    try:
        device = choose_device(config.device).value
        configure_threads(device, config.threads)
        precision = choose_precision(config.precision, device)
    except UserError as error:
        return Rank(rank, host, config.device, config.precision, str(error), cudnn, versions)
    place = f"cuda:{launched_local_rank()}" if device == "cuda" else device
    problem = try_step(place, as_arithmetic(precision))
    return Rank(rank, host, device, str(precision), problem, cudnn, versions)


def try_step(device: str, precision: Arithmetic) -> str | None:
    """Forward and backward through a small recurrent layer; the sentence with which it failed, or None."""
    try:
        place = torch.device(device)
        lstm = VariableLengthLSTM(16, 16).to(place)
        layout, _ = layout_on(place, 16)
        try_recurrence(lstm, layout, recurrent_dtype(precision, place.type, layout))
    except UserError as error:
        return str(error)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return f"a small LSTM cannot be put on {device} ({reason}); use --device cpu"
    return None


def look_at_versions() -> dict[str, str]:
    """What must be the same on every rank."""
    found = {name: installed_version(name) for name in ("torch", "accelerate", "numpy", "pyarrow")}
    versions = {"python": platform.python_version(), **{name: value for name, value in found.items() if value}}
    if torch.cuda.is_available():
        versions["CUDA"] = str(torch.version.cuda)
        versions["cuDNN"] = str(torch.backends.cudnn.version())
        versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return versions
