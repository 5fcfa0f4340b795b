# SPDX-License-Identifier: Apache-2.0
"""The devices and the threads that the user requested; one rule for every launcher.

==================================================================  ===================================================
request                                                             meaning
==================================================================  ===================================================
``--device cpu``                                                    the CPU, whatever else is requested
``--device cuda``                                                   GPUs
``--multi_gpu`` or ``--gpu_ids`` for accelerate, or ``gpu_ids`` in  GPUs
its configuration file
``--cpu``, ``use_cpu: true``, or a configuration file without       the CPU
``gpu_ids``
none of these                                                       GPUs if every process of this machine gets one,
                                                                    else the CPU
==================================================================  ===================================================

If GPUs are requested and too few are visible, that is an error. Threads are those of the key ``threads``, else of
accelerate's option or the user's ``OMP_NUM_THREADS``, else a share of the cores. The launchers set that variable for
their ranks where the user has not, so a rank cannot tell whose number it is: ``padless train`` passes on the user's
request, and under bare ``accelerate launch`` a rank reads the command line and environment of its parent.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from preprocessing.base.configuration import read_config
from preprocessing.base.errors import ConfigError

Asked = Literal["gpu", "cpu", "either"]
DEVICES, THREADS = "PADLESS_DEVICES", "PADLESS_THREADS"
"""Environment variables by which ``padless train`` passes the requested devices and threads to its ranks."""
OMP = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Cuda:
    """What torch and the machine report on CUDA devices."""

    found: int
    """Devices that are visible."""
    driver: bool
    """An NVIDIA driver is loaded."""
    build: str | None
    """The CUDA version that torch was built with; None for a build without."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES, if it is set."""

    def __str__(self) -> str:
        driver = "an NVIDIA driver is loaded" if self.driver else "no NVIDIA driver is loaded"
        build = "torch was built without CUDA" if self.build is None else f"torch was built with CUDA {self.build}"
        variable = "is not set" if self.visible is None else f"is {self.visible!r}"
        return f"{driver}, {build}, CUDA_VISIBLE_DEVICES {variable}"


def look() -> Cuda:
    """The CUDA devices that this process sees."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists()
    return Cuda(torch.cuda.device_count(), driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def asked_by(arguments: Namespace) -> Asked:
    """What accelerate's options and configuration file ask for. Raises ``ConfigError`` for a file that is no YAML."""
    from accelerate.commands.config.config_args import default_config_file

    if arguments.multi_gpu or arguments.gpu_ids:
        return "gpu"
    if arguments.cpu:
        return "cpu"
    path = Path(arguments.config_file or default_config_file)
    if not path.is_file():
        return "either"
    settings = read_config(path)  # as texts
    on_cpu = str(settings.get("use_cpu")).lower() in ("true", "yes", "on")
    return "cpu" if on_cpu or settings.get("gpu_ids", "null") == "null" else "gpu"


def threads_of(arguments: Namespace | None, environment: Mapping[str, str]) -> int | None:
    """The number of threads that the user gave a launcher, by option or ``OMP_NUM_THREADS``; None without one."""
    text = str((arguments and arguments.num_cpu_threads_per_process) or environment.get(OMP, ""))
    first = text.partition(",")[0].strip()  # OpenMP's list for nested regions begins with the one that counts
    return int(first) or None if first.isdigit() else None


def tell_ranks(arguments: Namespace) -> None:
    """Pass the devices and threads of accelerate's options and this environment to the ranks."""
    os.environ[DEVICES], os.environ[THREADS] = asked_by(arguments), str(threads_of(arguments, os.environ) or "")


def asked_here() -> tuple[Asked, int | None]:
    """The devices and the threads that were asked for when this process was started."""
    if DEVICES in os.environ:
        return cast(Asked, os.environ[DEVICES]), int(os.environ.get(THREADS) or 0) or None
    launched = {"RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys()
    arguments, environment = parent() if launched else (None, os.environ)
    return ("either" if arguments is None else asked_by(arguments)), threads_of(arguments, environment)


def parent() -> tuple[Namespace | None, Mapping[str, str]]:
    """The options of ``accelerate launch``, if that is the parent, and the parent's environment."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    try:
        process = psutil.Process(os.getppid())
        words, environment = process.cmdline(), process.environ()
    except psutil.Error:
        return None, {}
    for place, word in enumerate(words):
        if word.endswith("commands.launch") or (word == "launch" and words[place - 1].endswith("accelerate")):
            return launch_command_parser().parse_args(words[place + 1 :]), environment
    return None, environment


def choose(wanted: str, asked: Asked, processes: int, cuda: Cuda) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why; a pure function of the key ``device``, the request and the visible devices.

    ``processes`` are those of this machine. Raises ``ConfigError`` where GPUs were asked for and are too few.
    """
    if wanted == "cpu":
        return "cpu", "asked for"
    devices = f"{cuda.found} CUDA device{'' if cuda.found == 1 else 's'}"
    if wanted == "cuda" or asked == "gpu":
        who = "device: cuda" if wanted == "cuda" else "gpu_ids, --multi_gpu or --gpu_ids"
        if cuda.found == 0:
            raise ConfigError(f"{who} asks for GPUs, but no CUDA device is visible ({cuda}); use --device cpu")
        if processes > cuda.found:
            raise ConfigError(
                f"num_processes: {who} asks for GPUs, and {processes} processes cannot share {cuda.found} of them "
                f"({cuda}); start {cuda.found}, or --device cpu"
            )
        return "cuda", f"{who} asks for it; {devices} visible"
    if asked == "cpu":
        return "cpu", "accelerate's configuration names no gpu_ids"
    if cuda.found == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.found:
        return "cpu", f"{processes} processes and {devices}; --num_processes {cuda.found} takes GPUs"
    return "cuda", f"{devices} visible"


def cards(wanted: str, asked: Asked, here: int, processes: int) -> int | None:
    """How many GPUs train: one for each of ``processes``, of which ``here`` are on this machine; None on CPUs.

    Raises ``ConfigError`` as ``choose`` does.
    """
    return processes if choose(wanted, asked, here, look())[0] == "cuda" else None
