# SPDX-License-Identifier: Apache-2.0
"""The command line of a training: its keys, and among them the options of ``accelerate launch``.

Accelerate's own parser reads those; it brings torch, which takes seconds. So it is imported only for an option that is
no key of padless, and after the dataset was found to be there.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from harness.config import RunConfig
from harness.ranks import devices
from preprocessing.base import cli
from preprocessing.base.configuration import find, read_config
from preprocessing.base.errors import ConfigError

Recipe = TypeVar("Recipe", bound=RunConfig)
LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
IDLE = "gradient_accumulation_steps"
"""Accelerate takes it, and passes it on to DeepSpeed alone."""
OTHERS = ("use_deepspeed", "use_fsdp", "use_megatron_lm", "tpu")
"""Accelerate's options for trainings that padless has not."""


def of_training(argv: Sequence[str], config_class: type) -> tuple[list[str], list[str]]:
    """As ``split_arguments``. Raises ``DataError`` for a dataset that is not there, before torch is imported."""
    alone, given = cli.apart(argv, config_class)
    keys = {"data": "".join(alone[:1]), **dict(given)}
    if keys["data"] and not {"help", "print_config"} & {*keys} and keys["data"][0] != "{":
        from preprocessing.dataset.views import read_data

        read_data(keys["data"])
    return split_arguments(argv, config_class)


def split_arguments(argv: Sequence[str], config_class: type) -> tuple[list[str], list[str]]:
    """Accelerate's options, wherever they stand, and all other words.

    The parser of padless answers an option that neither has. Accelerate, and so torch, is imported for one without a
    dot that is no key of ``config_class``.
    """
    known, options, ours, words = cli.known_keys(config_class) | {IDLE}, list[str](), list[str](), list(argv)
    while words and words[0] != "--":
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        takes_value: dict[str, bool] = {}
        if name.startswith("--") and not {".", " "} & {*name} and name[2:] not in known:
            actions = parser_of_accelerate()._actions
            takes_value = {option: one.nargs != 0 for one in actions for option in one.option_strings}
        if name not in takes_value:
            ours.append(word)
            continue
        options.append(word)
        if takes_value[name] and not equals and words:
            options.append(words.pop(0))
    return options, [*ours, *words]


@cache
def parser_of_accelerate() -> argparse.ArgumentParser:
    """The parser of ``accelerate launch``, which brings torch."""
    users = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = users or "FATAL"  # torch would print a stack for a missing machine
    from accelerate.commands.launch import launch_command_parser

    os.environ[LOG_LEVEL] = users or "ERROR"  # for the ranks: torch would warn of every address that has no name
    parser: argparse.ArgumentParser = launch_command_parser()
    parser.set_defaults(max_restarts=None)

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message)

    parser.error = refuse  # type: ignore[method-assign]  # it would print two hundred lines
    return parser


def accelerate_arguments(options: list[str], config: Recipe, module: str = "harness.train") -> tuple[Any, Recipe]:
    """Parse accelerate's options with its own parser and its configuration file, which may be a recipe's name; every
    value that it would guess is set. Also returns the configuration with the devices and threads that were asked of
    accelerate, where its own keys leave them open.

    Raises ``ConfigError`` for a file that is missing and for options that cannot be meant.
    """
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    arguments = parser_of_accelerate().parse_args([*options, "--module", module])
    if arguments.config_file:
        arguments.config_file = find(arguments.config_file, "accelerate", "--config_file")
        if not Path(arguments.config_file).is_file():
            raise ConfigError(f"--config_file {arguments.config_file}: no such file; name one, or a recipe such as cpu")
    file = arguments.config_file or default_config_file
    settings = None
    if Path(file).is_file():
        read_config(file)  # accelerate has no sentence for a file that is no YAML
        settings = load_config_from_file(file)
    asked = {"device": devices.asked_by(arguments, settings), "threads": devices.threads_of(arguments)}
    own: dict[str, Any] = {key: its for key, its in asked.items() if its and getattr(config, key) in ("auto", None)}
    for name in ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(settings, name, 1 if name.startswith("num") else None))
    if arguments.num_processes < 1:
        raise ConfigError(f"--num_processes {arguments.num_processes}: must be at least 1; give one for each GPU")
    if arguments.cpu and arguments.multi_gpu:
        raise ConfigError("--cpu beside --multi_gpu: leave one of them out")
    others = [f"--{name}" for name in OTHERS if getattr(arguments, name)]
    others += ["--mixed_precision fp8"] * (arguments.mixed_precision == "fp8")
    if others:
        raise ConfigError(f"{others[0]}: padless trains by DDP, in fp32, bf16 or fp16; leave it out")
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
