# SPDX-License-Identifier: Apache-2.0
"""Who asks for GPUs, and what a rank trains on: one rule for every way to start.

==================================================================  ===================================================
what was said                                                       what it means
==================================================================  ===================================================
``--device cpu``                                                    the CPU, whatever else was said
``--device cuda``                                                   GPUs
``--multi_gpu`` or ``--gpu_ids`` for accelerate, or ``gpu_ids`` in  GPUs
its configuration file
``--cpu``, ``use_cpu: true``, or a configuration file without       the CPU
``gpu_ids``
nothing of these                                                    GPUs if every process of this machine gets one,
                                                                    else the CPU
==================================================================  ===================================================

GPUs that were asked for and are too few are refused, with what was seen. ``harness launch`` reads its options and tells
the ranks; under bare ``accelerate launch`` a rank reads the command line of the launcher, its parent.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from preprocessing.base.errors import ConfigError

Asked = Literal["gpu", "cpu", "either"]
LAUNCHER_OPTIONS = (
    *("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids", "multi_gpu"),
    *("config_file", "cpu", "max_restarts", "num_cpu_threads_per_process", "rdzv_backend", "same_network"),
)
"""The options of ``accelerate launch`` that people give to a training: they stand before its keys."""
ASKED = "PADLESS_DEVICES"
"""Environment variable by which ``harness launch`` tells its ranks what was asked for."""


@dataclass(frozen=True)
class Cuda:
    """What torch and the machine say of CUDA devices; ``see`` looks, tests make it up."""

    found: int
    """Devices that are visible."""
    driver: bool
    """An NVIDIA driver is loaded."""
    build: str | None
    """The CUDA version that torch was built with; None for a build without."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES, if it is set."""

    def __str__(self) -> str:
        """For a sentence that refuses."""
        driver = "an NVIDIA driver is loaded" if self.driver else "no NVIDIA driver is loaded"
        build = "torch was built without CUDA" if self.build is None else f"torch was built with CUDA {self.build}"
        variable = "is not set" if self.visible is None else f"is {self.visible!r}"
        return f"{driver}, {build}, CUDA_VISIBLE_DEVICES {variable}"


def see() -> Cuda:
    """This machine, as this process sees it."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists()
    return Cuda(torch.cuda.device_count(), driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def asked_by(options: Sequence[str], settings: Mapping[str, Any] | None) -> Asked:
    """What accelerate's ``options`` and its configuration file (``settings``; None without one) ask for."""
    said = {option.partition("=")[0] for option in options}
    if said & {"--multi_gpu", "--multi-gpu", "--gpu_ids", "--gpu-ids"}:
        return "gpu"
    if "--cpu" in said:
        return "cpu"
    if settings is None:
        return "either"
    if settings.get("use_cpu"):
        return "cpu"
    return "gpu" if settings.get("gpu_ids") is not None else "cpu"


def read_settings(options: Sequence[str], default: Path | None = None) -> dict[str, Any] | None:
    """The configuration file that accelerate's ``options`` name, else the one at ``default``; None without any."""
    names = [option.partition("=")[2] for option in options if option.startswith(("--config_file=", "--config-file="))]
    names += [value for name, value in itertools.pairwise(options) if name in ("--config_file", "--config-file")]
    path = Path(names[-1]) if names else default
    if path is None or not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config_file {path}: not readable as YAML ({' '.join(str(error).split())})") from None
    return content if isinstance(content, dict) else None


def asked_here() -> Asked:
    """What was asked for when this process was started."""
    said = os.environ.get(ASKED)
    if said in ("gpu", "cpu", "either"):
        return said  # type: ignore[return-value]
    if "RANK" not in os.environ and "LOCAL_RANK" not in os.environ and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return "either"  # no launcher
    options = options_of_parent()
    return "either" if options is None else asked_by(options, read_settings(options, default_file()))


def options_of_parent() -> list[str] | None:
    """The words behind ``accelerate launch`` in the parent's command line; None for another parent."""
    import psutil

    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    starts = [place for place, word in enumerate(words) if word == "launch" or word.endswith("commands.launch")]
    if not starts:
        return None
    options = words[starts[0] + 1 :]
    return options[: options.index("-m")] if "-m" in options else options


def default_file() -> Path:
    """Where ``accelerate config`` leaves its answers."""
    from accelerate.commands.config.config_args import default_config_file

    return Path(default_config_file)


def choose(wanted: str, asked: Asked, processes: int, cuda: Cuda) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why; a pure function of the key ``device``, of what was asked and of what is there.

    ``processes`` are those of this machine. Raises ``ConfigError`` where GPUs were asked for and are too few.
    """
    if wanted == "cpu":
        return "cpu", "asked for"
    if wanted == "cuda" or asked == "gpu":
        who = "device: cuda" if wanted == "cuda" else "gpu_ids, --multi_gpu or --gpu_ids"
        if cuda.found == 0:
            raise ConfigError(f"device: {who} asks for GPUs, but no CUDA device is visible ({cuda}); or --device cpu")
        if processes > cuda.found:
            raise ConfigError(
                f"num_processes: {who} asks for GPUs, and {processes} processes cannot share {cuda.found} of them "
                f"({cuda}); start {cuda.found}, or --device cpu"
            )
        return "cuda", f"{who} asks for it; {devices(cuda.found)} visible"
    if asked == "cpu":
        return "cpu", "accelerate's configuration names no gpu_ids"
    if cuda.found == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.found:
        return "cpu", f"{processes} processes and {devices(cuda.found)}; --num_processes {cuda.found} takes GPUs"
    return "cuda", f"{devices(cuda.found)} visible"


def devices(count: int) -> str:
    """``1 CUDA device``."""
    return f"{count} CUDA device{'' if count == 1 else 's'}"
