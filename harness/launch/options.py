# SPDX-License-Identifier: Apache-2.0
"""The keys of ``padless train`` that say where and how often: those of ``accelerate launch``, and its own parser's word
for all that they leave open. It brings torch, which takes seconds, so it is imported after the dataset was found.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.config import LaunchRecipe, RunConfig
from harness.ranks import devices
from preprocessing.base.configuration import find, read_config
from preprocessing.base.errors import ConfigError
from preprocessing.base.schema import AtLeast0, AtLeast1

Recipe = TypeVar("Recipe", bound=RunConfig)
LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LaunchRecipe):
    """Train, with checks before any process starts; --seeds 0,1,2 or --folds all trains once for each and prints the
    spread. The keys from num_processes on are those of accelerate launch.
    """

    num_processes: AtLeast1 | None = None
    """Processes on all machines together, one for each GPU; null: as config_file has it; else 1 on a GPU, and on a CPU
    one a core, of one thread, while each has rows and tokens enough."""
    num_machines: AtLeast1 | None = None
    """Machines; each starts the same command with its own machine_rank."""
    machine_rank: AtLeast0 | None = None
    """Which of the machines this one is, from 0."""
    main_process_ip: str | None = None
    """Address of machine 0, where the machines meet."""
    main_process_port: AtLeast1 | None = None
    """Port there, the same on each machine; null: a free one, on a single machine."""
    max_restarts: AtLeast0 | None = None
    """How often all processes start again when one was lost; null: 3 times on several machines, else never."""
    config_file: str | None = None
    """A configuration file of accelerate, or a recipe: cpu, gpu, multi_gpu, multi_node."""
    multi_gpu: bool = False
    """The same as device: cuda."""
    gpu_ids: str | None = None
    """GPUs to use, as in 0,1."""
    cpu: bool = False
    """The same as device: cpu."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """For precision: auto."""
    num_cpu_threads_per_process: AtLeast1 | None = None
    """The same as threads."""


OF_ACCELERATE = [one.name for one in fields(TrainConfig)][len(fields(LaunchRecipe)) :]


def accelerate_arguments(asked: TrainConfig, config: Recipe, module: str = "harness.train") -> tuple[Any, Recipe]:
    """What accelerate's launcher is called with; every value that it would guess is set. Also returns ``config`` with
    the devices and threads that were asked of accelerate, where its own keys leave them open.

    Raises ``ConfigError`` for a configuration file that is missing and for keys that cannot be meant.
    """
    users = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = users or "FATAL"  # torch would print a stack for a missing machine
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    os.environ[LOG_LEVEL] = users or "ERROR"  # for the ranks: torch would warn of every address that has no name
    arguments = launch_command_parser().parse_args(["--module", module])
    vars(arguments).update({name: getattr(asked, name) for name in OF_ACCELERATE})
    if arguments.config_file:
        arguments.config_file = find(arguments.config_file, "accelerate", "--config_file")
        if not Path(arguments.config_file).is_file():
            raise ConfigError(f"--config_file {arguments.config_file}: no such file; name one, or a recipe such as cpu")
    file = arguments.config_file or default_config_file
    settings = None
    if Path(file).is_file():
        read_config(file)  # accelerate has no sentence for a file that is no YAML
        settings = load_config_from_file(file)
    wanted = {"device": devices.asked_by(arguments, settings), "threads": devices.threads_of(arguments)}
    own: dict[str, Any] = {key: its for key, its in wanted.items() if its and getattr(config, key) in ("auto", None)}
    several = (arguments.num_machines or 1) > 1
    arguments.leaves_processes = arguments.num_processes is None and settings is None and not several
    for name in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(settings, name, 1 if name.startswith("num") else None))
    if arguments.cpu and arguments.multi_gpu:
        raise ConfigError("--cpu beside --multi_gpu: leave one of them out")
    if settings is None:
        arguments.mixed_precision = arguments.mixed_precision or "no"
        arguments.dynamo_backend = arguments.dynamo_backend or "no"
    if settings is None or arguments.cpu:
        arguments.multi_gpu = arguments.multi_gpu or arguments.num_processes > 1  # what it calls DDP
        arguments.cpu = False  # it would start one process; the ranks get the key ``device``
    if arguments.num_machines == 1 and arguments.main_process_port is None:
        arguments.main_process_port = free_port()
    return arguments, replace(config, **own)


def free_port() -> int:
    """A free port, so that two runs on one machine do not collide."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
