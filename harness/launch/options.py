# SPDX-License-Identifier: Apache-2.0
"""The keys of ``padless train`` that say where and how often: those of ``accelerate launch``, and its own parser's word
for all that they leave open. That parser brings torch, which takes seconds, so it is asked when all else is checked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from huggingface_hub.constants import HF_HOME
from msgspec import Meta

from harness.config import RunConfig
from harness.distributed import devices
from padless.core.configuration import NULL, build_config, find_config, read_config
from padless.core.errors import ConfigError, require
from padless.core.schema import AtLeast0, AtLeast1, ShareText

LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
DEFAULT_FILE = os.path.join(HF_HOME, "accelerate/default_config.yaml")
"""What ``accelerate config`` writes, below the folder of Hugging Face."""
Seeds = Annotated[list[AtLeast0], Meta(min_length=2, max_length=1000, description="of 2 to 1000 numbers")]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train, with checks before any process starts; --seeds 0,1,2 or --folds all trains once for each and prints the
    spread. The keys from num_processes on are those of accelerate launch.
    """

    seeds: Seeds | None = None
    """Train once with each of these seeds, as in 0,1,2, in RUN/seed-0, RUN/seed-1, …, as many at the same time as cards
    or cores hold; at the end, mean and spread of their scores are printed. See docs/report.md."""
    folds: Literal["all"] | Annotated[int, Meta(ge=2, le=100)] | None = None
    """Train once for each fold of the dataset (splits.folds), holding it out: all, or their number; in RUN/fold-0,
    RUN/fold-1, …, with a prediction for every row by the run that did not train on it."""
    members: ShareText | None = None
    """Only this share of the seeds or folds, as 0/4 to 3/4 in the tasks of a SLURM array; the last that ends writes the
    summary."""
    members_per_device: AtLeast1 = 1
    """How many of them train on one CUDA device at the same time."""
    json: bool = False
    """Print nothing but the figures at the end, as one JSON object: those of the run, or of all seeds or folds."""
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
    config_file: str | None = None
    """A configuration file of accelerate, or a recipe: cpu, gpu, multi_gpu, multi_node."""

    def __post_init__(self) -> None:
        """Check ranges, and that seeds and folds are not both set."""
        super().__post_init__()
        if self.seeds is not None and self.folds is not None:
            raise ConfigError("seeds, folds: one command varies one of the two; give --seeds or --folds, not both")
        require(self.folds is None or self.fold is None, "fold", self.fold, "null beside folds, which holds out each")
        is_one = self.seeds is None and self.folds is None
        require(self.members is None or not is_one, "members", self.members, "null without seeds or folds")
        seeds = self.seeds or []
        require(len({*seeds}) == len(seeds), "seeds", seeds, "different numbers")

    @property
    def recipe(self) -> RunConfig:
        """The configuration of one training."""
        return RunConfig(**{option.name: getattr(self, option.name) for option in fields(RunConfig)})


MACHINE_KEYS = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port")
"""Keys of which a configuration file of accelerate may have the values."""
ACCELERATE_KEYS = (*MACHINE_KEYS, "config_file")


def complete_options(launch_config: TrainConfig) -> TrainConfig:
    """The options with what they leave open from a configuration file of accelerate, if there is one: of the machines
    and their processes, the device, and the threads of ``OMP_NUM_THREADS``.

    Raises ``ConfigError`` for a configuration file that is missing and for keys that do not fit together.
    """
    values: dict[str, Any] = {"threads": launch_config.threads or devices.find_threads()}
    file = launch_config.config_file or DEFAULT_FILE
    if launch_config.config_file:
        file = values["config_file"] = find_config(file, "accelerate", "--config_file")
        if not os.path.isfile(file):
            raise ConfigError(f"--config_file {file}: no such file; name one, or a recipe such as cpu")
    if os.path.isfile(file):
        settings = read_config(file)
        keys = {name: settings[name] for name in MACHINE_KEYS if settings.get(name, NULL) != NULL}
        of_file = build_config(TrainConfig, {"num_processes": "1", **keys})
        values |= {name: getattr(of_file, name) for name in MACHINE_KEYS if getattr(launch_config, name) is None}
        if launch_config.device == "auto":
            has_gpus = settings.get("use_cpu") != "true" and settings.get("gpu_ids", NULL) != NULL
            values["device"] = "cuda" if has_gpus else "cpu"
    options = replace(launch_config, **values)
    check_machines(options)
    return options


def check_machines(options: TrainConfig) -> None:
    """Raise ``ConfigError`` if the keys of several machines do not fit together."""
    num_machines, num_processes = options.num_machines or 1, options.num_processes or 1
    if num_machines == 1:
        return
    if not options.main_process_ip or options.main_process_port is None:
        raise ConfigError(
            f"{num_machines} machines meet at an address: give --main_process_ip and --main_process_port, the same on "
            "each"
        )
    if num_processes % num_machines:
        raise ConfigError(
            f"--num_processes {num_processes}: counts the processes of all {num_machines} machines, as many on each; "
            f"give a multiple of {num_machines}"
        )
    if (options.machine_rank or 0) >= num_machines:
        raise ConfigError(
            f"--machine_rank {options.machine_rank}: {num_machines} machines are counted from 0 to {num_machines - 1}"
        )


def accelerate_arguments(options: TrainConfig, num_processes: int, keys: Sequence[str]) -> Any:
    """What accelerate's launcher is called with: its own parser's values for a training with the words ``keys``, and
    all that it would guess.
    """
    users_level = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = users_level or "FATAL"  # torch would print a stack for a missing machine
    from accelerate.commands.launch import launch_command_parser

    os.environ[LOG_LEVEL] = users_level or "ERROR"  # for the ranks: torch would warn of addresses without a name
    arguments = launch_command_parser().parse_args(["--module", "harness.train", *keys])
    vars(arguments).update(
        {name: getattr(options, name) for name in ACCELERATE_KEYS},
        num_processes=num_processes,
        num_machines=options.num_machines or 1,
        machine_rank=options.machine_rank or 0,
        multi_gpu=num_processes > 1,  # what it calls DDP, also on CPUs
    )
    if arguments.num_machines == 1:
        arguments.main_process_port = options.main_process_port or 0  # it takes a free one
    else:
        arguments.rdzv_conf = f"timeout={options.timeout_s}"
    if not os.path.isfile(options.config_file or DEFAULT_FILE):
        arguments.mixed_precision = arguments.dynamo_backend = "no"
    return arguments
