# SPDX-License-Identifier: Apache-2.0
"""The keys of ``padless train`` that say where and how often: those of ``accelerate launch``, and its own parser's word
for all that they leave open. It brings torch, which takes seconds, so it is imported after the dataset was found.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.config import LaunchRecipe, RunConfig
from harness.distributed import devices
from padless.core.configuration import find_config, read_config
from padless.core.errors import ConfigError
from padless.core.schema import AtLeast0, AtLeast1

AUTO = 0
"""A number of processes that the user left open."""
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
    """Address of machine 0, for the rendezvous of the machines."""
    main_process_port: AtLeast1 | None = None
    """Port there, the same on each machine; null: a free one, on a single machine."""
    max_restarts: AtLeast0 | None = None
    """How often all of several processes start again when one was lost; null: 3 times on several machines, else
    never."""
    config_file: str | None = None
    """A configuration file of accelerate, or a recipe: cpu, gpu, multi_gpu, multi_node."""


NUM_RESTARTS = 3
"""Default of ``--max_restarts`` for several machines: one of them is lost sooner or later."""
ACCELERATE_KEYS = [field.name for field in fields(TrainConfig)][len(fields(LaunchRecipe)) :]
MACHINE_KEYS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""Keys of which a configuration file of accelerate may have the values."""


def accelerate_arguments(launch_config: TrainConfig, config: RunConfig) -> tuple[Any, RunConfig]:
    """What accelerate's launcher is called with; every value that it would guess is set. Also returns ``config`` with
    the device that accelerate's configuration file names, and the threads of ``OMP_NUM_THREADS``, where its own keys
    leave them open.

    Raises ``ConfigError`` for a configuration file that is missing and for keys that do not fit together.
    """
    users_level = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = users_level or "FATAL"  # torch would print a stack for a missing machine
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    os.environ[LOG_LEVEL] = users_level or "ERROR"  # for the ranks: torch would warn of addresses without a name
    arguments = launch_command_parser().parse_args(["--module", "harness.train"])
    vars(arguments).update({name: getattr(launch_config, name) for name in ACCELERATE_KEYS})
    if arguments.config_file:
        arguments.config_file = find_config(arguments.config_file, "accelerate", "--config_file")
        if not Path(arguments.config_file).is_file():
            raise ConfigError(f"--config_file {arguments.config_file}: no such file; name one, or a recipe such as cpu")
    file, settings = arguments.config_file or default_config_file, None
    if Path(file).is_file():
        read_config(file)  # accelerate has no sentence for a file that is no YAML
        settings = load_config_from_file(file)
    elif arguments.num_processes is None and (arguments.num_machines or 1) == 1:
        arguments.num_processes = AUTO
    for name in MACHINE_KEYS:
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(settings, name, 1 if name.startswith("num") else None))
    if settings is None:
        arguments.mixed_precision = arguments.dynamo_backend = "no"
    elif config.device == "auto":
        config = replace(config, device=devices.find_device(settings))
    if config.threads is None:  # accelerate sets OMP_NUM_THREADS for the ranks
        config = replace(config, threads=devices.find_threads())
    return arguments, config


def set_machines(arguments: Any, timeout_s: int) -> None:
    """Check the options of several machines, and set how their processes are started.

    Raises ``ConfigError``.
    """
    num_machines, rank = arguments.num_machines, arguments.machine_rank or 0
    arguments.multi_gpu = arguments.num_processes > 1  # what it calls DDP, also on CPUs
    if num_machines == 1:
        arguments.main_process_port = arguments.main_process_port or find_free_port()
        arguments.max_restarts = arguments.max_restarts or 0
        return
    if not arguments.main_process_ip or arguments.main_process_port is None:
        raise ConfigError(
            f"{num_machines} machines meet at an address: give --main_process_ip and --main_process_port, the same on "
            "each"
        )
    if arguments.num_processes % num_machines:
        raise ConfigError(
            f"--num_processes {arguments.num_processes}: counts the processes of all {num_machines} machines, as many "
            f"on each; give a multiple of {num_machines}"
        )
    if not 0 <= rank < num_machines:
        raise ConfigError(f"--machine_rank {rank}: {num_machines} machines are counted from 0 to {num_machines - 1}")
    arguments.machine_rank, arguments.rdzv_conf = rank, f"timeout={timeout_s}"
    arguments.max_restarts = NUM_RESTARTS if arguments.max_restarts is None else arguments.max_restarts


def find_free_port() -> int:
    """A free port, so that two runs on one machine do not collide."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
