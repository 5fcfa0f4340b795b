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
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.config import LANGUAGE_MODEL, RunConfig
from harness.launch import meeting
from harness.launch.stop import AT_ONCE, INTERRUPTED, STOP, leave
from harness.ranks import devices
from harness.ranks.stopping import EXIT_CODE
from harness.rundir.records import State, is_free, read_status, write_status
from harness.training import preflight
from harness.training.rules import resolve
from preprocessing.base import cli, configuration
from preprocessing.base.atomic import temporary_folder, told
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.help_page import suggestion
from preprocessing.base.terminal import Screen, tell

PROG = "python -m harness launch"
USAGE = "[DATA] [options of accelerate launch] [--key value …]"
END_LIMIT_S = 60
RESTARTS = 3
"""Of several machines, where ``--max_restarts`` is not given: one of them is lost sooner or later."""
LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Where torch makes a folder for compiled code when it is imported, in TMPDIR unless this environment variable says."""
IDLE = {"gradient_accumulation_steps"}
"""Options that accelerate takes and passes on to DeepSpeed alone."""
UNKNOWN = "no key of the training, no option of accelerate launch"
DOCUMENTED = {2, 3, 4}
"""Exit codes that a rank chooses; any other one of a rank becomes 1."""
LOST_PAGES = (
    "part of a mapped file was gone when it was read, as when a shard is cut short under a running job; "
    "look at the dataset with python -m preprocessing check, and at its disk"
)
"""What SIGBUS means to a process whose data is mapped."""


@dataclass(frozen=True)
class Failure:
    """What the launcher saw of an end that was not a good one."""

    code: int
    """The exit code to hand on, if the run itself does not say."""
    sentence: str
    signal: str | None = None
    """The stop signal that the launcher was sent, by name."""
    said: bool = False
    """A rank has already printed why."""
    follows: bool = False
    """It left because another rank, perhaps on another machine, was gone."""


def train(options: list[str], training: list[str], recipe: RunConfig) -> int:
    """Check, start, wait; returns the run's own exit code.

    ``options`` are accelerate's, ``training`` the keys that ``recipe`` was made of.
    """
    module = "harness.pretrain" if recipe.task == LANGUAGE_MODEL else "harness.train"
    arguments = accelerate_arguments(options, training, module)
    screen, place = Screen(quiet=recipe.quiet), meeting.place_of(arguments)
    with meeting.telling(place, recipe.timeout_s):
        config = resolve(recipe).config
        point = preflight.check_run(config, screen.say, tell)
        if point.finished and not config.dry_run:
            screen.say(f"{config.run} has finished already; name another run directory to train again")
            return 0
        processes = arguments.num_processes or 1
        here = -(-processes // (arguments.num_machines or 1))
        manifest = preflight.check_data(config, processes, point.checkpoint, here=here)
        if point.checkpoint is None and not arguments.machine_rank:
            preflight.check_start(config, manifest)
        asked = devices.asked_by(options)
        if config.device == "cuda" or (asked == "gpu" and config.device == "auto"):
            devices.choose(config.device, asked, here, devices.look())
        if place is not None:
            meeting.name_network(place, screen.say)
    facts = {} if place is None else meeting.facts_of(arguments, manifest.fingerprint, config)
    begin = partial(meeting.name_start, place, config, facts, screen.say, uuid.uuid4().hex)
    return run_with_restarts(config, arguments, begin)


def run_with_restarts(config: RunConfig, arguments: Any, begin: Callable[[int], str]) -> int:
    """Start the ranks; when one is lost, start all of them again, at most so often, from the last checkpoint.

    ``begin`` gives each attempt its name, when all machines are ready for it.
    """
    several = arguments.num_machines > 1
    restarts = (RESTARTS if several else 0) if arguments.max_restarts is None else int(arguments.max_restarts)
    run, code = Path(config.run), EXIT_CODE
    for attempt in range(restarts + 1):
        launch_id = begin(attempt)
        late = partial(given_up, run, launch_id, config.dry_run)
        with STOP.ranks(partial(has_begun, run, launch_id, several), late):
            failure = start(arguments)
        if config.dry_run and failure is None:
            return 0
        if failure is None and (arguments.machine_rank or 0) > 0:
            wait_for_end(run, launch_id)
        if failure is not None and failure.code == 1 and failure.signal is None and not arguments.machine_rank:
            meeting.note_end(config, failure.sentence, 1)
        with STOP.deciding:
            code = outcome(run, launch_id, failure, config.dry_run)
        if STOP.heard and code:
            leave(code)  # an interpreter with torch takes seconds to end
        if code != 1 or failure is None or STOP.heard or attempt == restarts:
            break
        print(f"restart {attempt + 1} of {restarts}, from the last checkpoint", file=sys.stderr, flush=True)
        if not several:
            arguments.main_process_port = free_port()
    return code


def has_begun(run: Path, launch_id: str, several: bool) -> bool:
    """Whether ranks of this launch may have something to save; those of other machines may, unseen from here."""
    with contextlib.suppress(DataError):
        return several or (read_status(run) or {}).get("launch") == launch_id
    return True


def given_up(run: Path, launch_id: str, dry_run: bool) -> int:
    """The exit code, when torch's agent does not come back after a stop signal."""
    return outcome(run, launch_id, Failure(1, "the processes did not end", STOP.heard[0]), dry_run)


def split_arguments(argv: Sequence[str], config_class: type = RunConfig) -> tuple[list[str], list[str]]:
    """Accelerate's options, and our own: ours begin at the first key that ``config_class`` has.

    A dotted name can only be meant for us, known or not, so a misspelt key is answered by our parser. ``--config_file``
    becomes the file that it names or means. A word in front of all options is the dataset.
    """
    known = cli.known_keys(config_class)
    if argv and not argv[0].startswith("-"):
        argv = [*argv[1:], "--data", argv[0]]
    for place, argument in enumerate(argv):
        key = "help" if argument == "-h" else argument[2:].split("=", 1)[0]
        if argument != "-h" and not argument.startswith("--"):
            continue
        if key in known or "." in key:
            return configuration.named(argv[:place], "accelerate", "--config_file"), list(argv[place:])
    return configuration.named(argv, "accelerate", "--config_file"), []


def accelerate_arguments(options: list[str], training: list[str], module: str = "harness.train") -> Any:
    """Parse accelerate's options with its own parser and configuration file; every value that it would guess is set."""
    users = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = users or "FATAL"  # of a machine that does not come torch would print a stack
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    os.environ[LOG_LEVEL] = users or "ERROR"  # the ranks': torch would warn of every address that has no name

    parser = launch_command_parser()
    check_options(options, {option for action in parser._actions for option in action.option_strings})
    parser.set_defaults(max_restarts=None)
    devices.tell_ranks(options)
    arguments = parser.parse_args([*options, "--module", module, *training])
    if (word := arguments.training_script) != module:
        raise ConfigError(f"{word!r} belongs to no option: values follow a name, as in --data {word}")
    file = arguments.config_file or default_config_file
    if arguments.config_file and not Path(file).is_file():
        raise ConfigError(f"--config_file {file}: no such file; name a YAML file, or a recipe such as cpu")
    settings = load_config_from_file(file) if Path(file).is_file() else None

    def take(name: str, default: int | None = None) -> None:
        if getattr(arguments, name) is None:
            setattr(arguments, name, getattr(settings, name, default))

    take("num_processes", 1)
    take("num_machines", 1)
    for name in ("machine_rank", "main_process_ip", "main_process_port") if arguments.num_machines > 1 else ():
        take(name)
    if settings is None:
        arguments.mixed_precision = arguments.mixed_precision or "no"
        arguments.dynamo_backend = arguments.dynamo_backend or "no"
        arguments.multi_gpu = arguments.multi_gpu or arguments.num_processes > 1
    if arguments.num_machines == 1 and arguments.main_process_port is None:
        arguments.main_process_port = free_port()
    return arguments


def check_options(options: list[str], known: set[str]) -> None:
    """Refuse an option in front that neither we nor accelerate have, or that would do nothing, with what is meant."""
    keys = cli.known_keys(RunConfig)
    for option in options:
        name = option.split("=", 1)[0]
        if option.startswith("--") and (name not in known or name[2:] in IDLE):
            hint = suggestion(name[2:], keys | {word[2:] for word in known - {name}})
            what = "padless has no use for it" if name in known else UNKNOWN
            raise ConfigError(f"{name}: {what}{hint}")


def free_port() -> int:
    """A free port, so that two runs on one machine do not meet."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def wait_for_end(run: Path, launch_id: str) -> None:
    """Until rank 0, which runs on another machine, has written how the run ended; it may still be closing trackers."""
    deadline = time.monotonic() + END_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(DataError):
            status = read_status(run) or {}
            if status.get("launch") == launch_id and status["state"] != "running":
                return
        time.sleep(0.5)


def start(arguments: Any) -> Failure | None:
    """Run accelerate's launcher to its end; None if all ranks left with 0, else what is known of the failure."""
    from accelerate.commands.launch import launch_command

    arguments.max_restarts = 0  # torch's agent would start ranks again beside those of other machines
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    failure: Failure | None = None
    try:
        if not STOP.heard:
            with own_logs(arguments):
                launch_command(copy(arguments))  # what it decides, as on threads, is not the user's for another start
    except subprocess.CalledProcessError as error:
        failure = describe_exit(0, error.returncode)
    except SystemExit as error:
        if error.code:
            failure = describe_exit(0, int(error.code) if isinstance(error.code, int) else 1)
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (refusal := told(error)) is not None:  # it needs temporary files
            raise refusal from None
        failure = describe_failure(error)
    if STOP.heard and (failure is not None or STOP.unbegun):
        return replace(failure or Failure(1, "the launcher was told to stop"), signal=STOP.heard[0])
    return failure


@contextlib.contextmanager
def own_logs(arguments: Any) -> Iterator[None]:
    """A folder for what torch keeps of a launch, gone with it; torch itself would leave one in TMPDIR."""
    if arguments.log_dir is not None:
        yield
        return
    with temporary_folder() as folder:
        mine = os.environ.setdefault(COMPILED, str(folder / "compiled")) == str(folder / "compiled")
        try:
            arguments.log_dir = str(folder)
            yield
        finally:
            arguments.log_dir = None
            if mine:
                del os.environ[COMPILED]


def outcome(run: Path, launch_id: str, failure: Failure | None, dry_run: bool = False) -> int:
    """The exit code that ``status.json`` gives, if this launch wrote one; else what the launcher saw, and wrote there.

    A dry run has no status.
    """
    try:
        status = read_status(run)
    except DataError:
        status = None
    mine = status is not None and status.get("launch") == launch_id
    state = status["state"] if status is not None and mine else None
    if state == "finished" and (failure is None or STOP.now):
        return 0
    if state == "preempted":
        return EXIT_CODE
    step = status["step"] if status is not None else 0
    ended = stopped(state, failure)
    if ended is not None:
        to, code, reason = ended
        if not dry_run and (mine or is_free(run)):
            with contextlib.suppress(UserError):
                write_status(run, to, step=step, exit_code=code, reason=reason)
        how = f"told to stop before the first step ({reason}); the same command goes on"
        print(f"error: {how if to == 'preempted' else reason}", file=sys.stderr)
        return code
    if status is not None and state == "failed" and (failure is None or status["exit_code"] != 1):
        return int(status["exit_code"])
    if failure is None:
        failure = Failure(1, "the processes ended without saying how the run ended")
    if state == "running" or (state is not None and not failure.follows):  # rank 0 may know better who was lost
        with contextlib.suppress(UserError):
            write_status(run, "failed", step=step, exit_code=failure.code, reason=failure.sentence)
    if not failure.said:
        print(f"error: {failure.sentence}; what it said is above", file=sys.stderr)
    return failure.code


def stopped(state: str | None, failure: Failure | None) -> tuple[State, int, str] | None:
    """How a run ended that a signal to this launcher ended, as state, exit code and reason; None if none did.

    ``state`` is what the run's own status says, None where the ranks had not come so far.
    """
    if STOP.now:
        return "failed", INTERRUPTED, AT_ONCE
    if STOP.verdict is not None:
        return "failed", 1, STOP.verdict
    nothing_to_save = state is None or (state == "running" and STOP.unbegun)
    if failure is not None and failure.signal is not None and nothing_to_save and not failure.said:
        return "preempted", EXIT_CODE, f"{failure.signal} received"
    return None


def describe_failure(error: Exception) -> Failure:
    """What an exception of the elastic launcher says: the rank that failed first."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, first = min(failures.items(), key=lambda item: (*blame(item[1]), item[0]))
        return describe_exit(int(rank), int(first.exitcode), words_of(first))
    return Failure(1, f"the launcher stopped: {' '.join(str(error).split()) or type(error).__name__}")


def words_of(failure: Any) -> dict[str, Any]:
    """What a rank has left as its last words; nothing of one that was killed, but by an abort after them."""
    left = failure.exitcode > 0 or failure.exitcode == -signal.SIGABRT
    return dict(getattr(failure, "error_file_data", {})) if left else {}


def blame(failure: Any) -> tuple[int, float]:
    """How late to look for the cause at a rank that failed so; failures of one second look alike without its words.

    A rank that was killed comes first, then those that left by themselves, then those that were aborted, as NCCL's
    watchdog does when a peer is gone, then those that left because of that and said so; the elastic agent sends SIGTERM
    to all that are left.
    """
    words = words_of(failure)
    if failure.exitcode == -signal.SIGTERM:
        return 4, failure.timestamp
    if words.get("follows"):
        return 3, words["timestamp"]
    if failure.exitcode < 0:
        return (2 if failure.exitcode == -signal.SIGABRT else 0), failure.timestamp
    return 1, words.get("timestamp", failure.timestamp)


def describe_exit(rank: int, code: int, words: Mapping[str, Any] = MappingProxyType({})) -> Failure:
    """What the exit code of the rank that left first means, below 0 the signal that killed it; and its last words."""
    if code == -signal.SIGBUS:
        return Failure(3, f"rank {rank} was killed by SIGBUS: {LOST_PAGES}")
    said = words.get("message")
    if code < 0 and said is None:
        return Failure(1, f"rank {rank} was killed by {signal.Signals(-code).name}")
    known = code in DOCUMENTED
    sentence = said if isinstance(said, str) else f"rank {rank} ended with exit code {code}"
    return Failure(code if known else 1, sentence, None, known or sentence == said, bool(words.get("follows")))
