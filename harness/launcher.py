# SPDX-License-Identifier: Apache-2.0
"""``python -m harness launch``: accelerate's own launcher, with checks before it, quiet failures and true exit codes.

``accelerate launch`` turns every failure into exit code 1 under a traceback. Here the configuration and the dataset
are checked before any process starts, every value is passed, stop signals reach the ranks, and the exit code is the
one in the run's ``status.json``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import checks, rundir, trackers
from harness.config import RunConfig
from preprocessing import cli
from preprocessing.errors import ConfigError, DataError

PROG = "python -m harness launch"
USAGE = f"{PROG} [options of accelerate launch] --config FILE [--any.key value]"
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR2")
SHUTDOWN_TIMEOUT_S = 300
DOCUMENTED = {2, 3}
"""Exit codes that a rank chooses; any other one of a rank becomes 1."""


def main(argv: list[str]) -> int:
    """Check, start, wait; returns the run's own exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {USAGE}\n\n{__doc__}")
        argv = ["--help"]
    options, training = split_arguments(argv)
    config = cli.parse(RunConfig, training, prog=PROG, description="Keys of the training:")
    rundir.check_free(config.run)
    trackers.check_trackers(config.tracking)
    arguments = accelerate_arguments(options, training)
    manifest = checks.check_dataset(config.data)
    checks.check_fit(config, manifest, arguments.num_processes or 1)
    checks.check_useful(config, manifest, arguments.num_processes or 1)
    launch_id = uuid.uuid4().hex
    os.environ[rundir.LAUNCH_ID] = launch_id
    os.environ["PET_SIGNALS_TO_HANDLE"] = ",".join(SIGNALS)
    os.environ["PET_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_TIMEOUT_S)
    failure = start(arguments)
    if config.dry_run and failure is None:
        return 0
    return outcome(Path(config.run), launch_id, failure)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Accelerate's options, and those of the training: ours begin at the first key that is one of ours.

    A dotted name can only be meant for us, known or not, so a misspelt key is answered by our parser.
    """
    known = cli.known_keys(cli.parser_for(RunConfig, PROG, ""))
    for place, argument in enumerate(argv):
        if not argument.startswith("--"):
            continue
        key = argument[2:].split("=", 1)[0]
        if key in known or "." in key:
            return list(argv[:place]), list(argv[place:])
    return list(argv), []


def accelerate_arguments(options: list[str], training: list[str]) -> Any:
    """Parse accelerate's options with its own parser and configuration file; every value that it would guess is set."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    known = {option for action in parser._actions for option in action.option_strings}
    for option in options:
        if option.startswith("--") and option.split("=", 1)[0] not in known:
            raise ConfigError(f"{option}: neither a key of the training nor an option of accelerate launch")
    arguments = parser.parse_args([*options, "--module", "harness.train", *training])
    file = arguments.config_file
    if file is not None and not Path(file).is_file():
        raise ConfigError(f"--config_file {file}: no such file; name a YAML file such as configs/accelerate/cpu.yaml")
    if file is None and Path(default_config_file).is_file():
        file = default_config_file
    settings = load_config_from_file(file) if file is not None else None
    if arguments.num_processes is None:
        arguments.num_processes = settings.num_processes if settings is not None else 1
    arguments.num_machines = arguments.num_machines or (settings.num_machines if settings is not None else 1)
    if settings is None:
        arguments.mixed_precision = arguments.mixed_precision or "no"
        arguments.dynamo_backend = arguments.dynamo_backend or "no"
        arguments.multi_gpu = arguments.multi_gpu or arguments.num_processes > 1
    if arguments.num_machines == 1 and arguments.main_process_port is None:
        arguments.main_process_port = free_port()
    return arguments


def free_port() -> int:
    """A port that nobody listens on, so that two runs on one machine do not meet."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def start(arguments: Any) -> str | None:
    """Run accelerate's launcher to its end; None if all ranks left with 0, else what is known of the failure."""
    from accelerate.commands.launch import launch_command

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for name in SIGNALS:
        signal.signal(getattr(signal, name), forward_to_children)
    try:
        launch_command(arguments)
    except subprocess.CalledProcessError as error:
        return describe_exit(0, error.returncode)
    except SystemExit as error:
        return None if not error.code else describe_exit(0, int(error.code) if isinstance(error.code, int) else 1)
    except Exception as error:
        return describe_failure(error)
    return None


def describe_failure(error: Exception) -> str:
    """What an exception of the elastic launcher says: the rank that failed first, or the signal that stopped it."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, first = min(failures.items(), key=lambda item: (item[1].timestamp, item[0]))
        return describe_exit(int(rank), int(first.exitcode))
    return f"exit 1: the launcher stopped: {' '.join(str(error).split()) or type(error).__name__}"


def describe_exit(rank: int, code: int) -> str:
    """``exit 3: rank 0 left``, or the signal that killed it; the number is the exit code to hand on."""
    if code < 0:
        return f"exit 1: rank {rank} was killed by {signal.Signals(-code).name}"
    return f"exit {code if code in DOCUMENTED else 1}: rank {rank} ended with exit code {code}"


def forward_to_children(number: int, _: Any) -> None:
    """Pass a stop signal to the rank. For one process only: with several, the elastic agent has its own handlers.

    What the rank has started in a session of its own, as it does its trackers, ends when the rank says so.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(child.pid) == os.getsid(0):
                child.send_signal(number)


def outcome(run: Path, launch_id: str, failure: str | None) -> int:
    """The exit code that ``status.json`` gives, if this launch wrote one; else what the launcher saw."""
    try:
        status = rundir.read_status(run)
    except DataError:
        status = None
    mine = status is not None and status.get("launch") == launch_id
    if status is not None and mine and status["state"] == "finished" and failure is None:
        return 0
    if status is not None and mine and status["state"] == "failed":
        return int(status["exit_code"])
    reason = failure or "exit 1: the processes ended without saying how the run ended"
    code = int(reason.split(":", 1)[0].split()[1])
    sentence = reason.split(":", 1)[1].strip()
    if mine and status is not None:
        rundir.write_status(run, "failed", step=status["step"], exit_code=code, reason=sentence)
    if code not in DOCUMENTED:
        print(f"error: {sentence}; what it said is above", file=sys.stderr)
    return code
