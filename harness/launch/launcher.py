# SPDX-License-Identifier: Apache-2.0
"""One training of ``padless train``: accelerate's own launcher, with checks before the start, one-line errors and the
run's exit code.

``accelerate launch`` turns every failure into exit code 1 under a traceback. Here the configuration and the dataset
are checked before any process starts, every value is passed, stop signals reach the ranks, and the exit code is the
one in the run's ``status.json``. The rendezvous of several machines, and the restart of lost ranks, are torch's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import subprocess
import uuid
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.baselines.sentence_encoder import SentenceEncoder
from harness.config import RunConfig, to_dict
from harness.distributed import devices
from harness.distributed.stopping import FINAL_ERROR
from harness.launch.options import AUTO, TrainConfig, accelerate_arguments, set_machines
from harness.rundir.lock import MAX_CLAIM_S, check_claim, is_free
from harness.rundir.records import LAUNCH_ID, Ending, State, read_status, write_status
from harness.training import preflight
from harness.training.rules import processes_on_cores, resolve_config
from harness.training.teacher import find_teacher, prepare_targets
from padless.core.atomic import as_storage_error, temporary_folder
from padless.core.errors import ERRORS, ConfigError, UserError
from padless.core.executors import ProcessPool
from padless.core.processes import available_cores
from padless.core.signals import LAUNCHER, PREEMPTED, STOP, end_process
from padless.core.terminal import Screen, print_stderr
from padless.core.untrusted import parse_json

COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: folder for torch's compiled code. Without it torch makes one in TMPDIR when imported."""
SIGBUS_CAUSE = (
    "a mapped file, such as a shard, was truncated under the running job, or its disk failed; "
    "verify the dataset with padless inspect --verify, and check the disk"
)
"""What SIGBUS means to a process whose data is mapped."""
RENDEZVOUS_MARGIN_S = 30.0
"""How much longer than its own limit torch may take to report that the rendezvous failed."""
SIGNAL_ORDER = {-signal.SIGABRT: 2, PREEMPTED: 4, -signal.SIGTERM: 4}
"""Order in which exit codes are taken as the cause, lowest first. NCCL's watchdog aborts ranks whose peer is gone, and
torch's agent terminates all that are left, of which those with nothing to save exit with 85."""


@dataclass(frozen=True)
class Failure:
    """The facts of a failure that the launcher has."""

    code: int
    """The exit code to return, if the run has none of its own."""
    sentence: str
    is_reported: bool = False
    """A rank has already printed why."""
    follows: bool = False
    """The rank ended because another one was gone."""


def launch_training(launch_config: TrainConfig, recipe: RunConfig) -> int:
    """Check, start, wait; returns the run's own exit code."""
    screen, point = Screen(quiet=recipe.quiet), None
    screen.show_work("reading the dataset")
    if not recipe.dry_run:  # another launch reads the status of its run when its ranks have ended
        check_claim(Path(recipe.run), MAX_CLAIM_S)
    devices.check_device(recipe.device)
    prepare_targets_apart(recipe)
    config_on_cpu = resolve_config(recipe).config  # what can be refused is refused before accelerate imports torch
    if devices.is_without_cuda():
        point = preflight.check_run(config_on_cpu, print_stderr)
    arguments, recipe = accelerate_arguments(launch_config, recipe)
    num_processes = arguments.num_processes or 1
    num_cards = devices.count_cards(recipe.device, -(-num_processes // arguments.num_machines), num_processes)
    config = resolve_config(recipe, lambda: num_cards).config
    os.environ.pop(devices.CHOSEN, None)  # of the training before
    if arguments.num_processes == AUTO and num_cards is None and config.threads is None:
        choice = processes_on_cores(config, available_cores())
        num_processes, os.environ[devices.CHOSEN] = int(choice.value), choice.reason
    arguments.num_processes = num_processes
    set_machines(arguments, config.timeout_s)
    if point is None or config != config_on_cpu:
        point = preflight.check_run(config, print_stderr)
    if point.finished and not config.dry_run:
        screen.print_text(preflight.describe_finished(config))
        return 0
    preflight.check_data(config, arguments.num_processes, hashes=False)  # rank 0 verifies them
    if point.checkpoint is None and not arguments.machine_rank:
        preflight.check_start(config)
    if arguments.num_machines > 1:
        screen.print_text(f"waiting up to {config.timeout_s} s for the other machines at {where_to_meet(arguments)}")
    if launch_config.files_read:
        screen.print_text(f"recipe: {', then '.join(launch_config.files_read)}")
    return Launch(recipe, arguments).run()


def prepare_targets_apart(config: RunConfig) -> None:
    """``prepare_targets``, an encoder's in a process of its own, which leaves no memory and no GPU context behind.

    Raises what that raises, and ``UserError`` if the process dies.
    """
    if not isinstance(find_teacher(config), SentenceEncoder):
        prepare_targets(config)
        return
    try:
        with ProcessPool(1) as pool:
            pool.submit(prepare_targets, config).result()  # cannot hang: the work ends, and the process with its pipe
    except BrokenExecutor:
        problem = "the process that embeds the texts died; was it killed for its memory?"
        raise UserError(f"teacher: {problem} Run the same command to continue") from None


def where_to_meet(arguments: Any) -> str:
    """Address and port of machine 0."""
    return f"{arguments.main_process_ip}:{arguments.main_process_port}"


class Launch:
    """One start of the ranks, and what became of the run."""

    def __init__(self, config: RunConfig, arguments: Any) -> None:
        """``arguments`` are those of accelerate's launcher."""
        self.config, self.arguments = config, arguments
        self.id = os.environ[LAUNCH_ID] = uuid.uuid4().hex
        self.earlier_id = read_status(config.run).get("launch")

    def run(self) -> int:
        """Start the ranks and wait for their end; returns the exit code."""
        silence = self.describe_error(TimeoutError("no answer"))
        start_limit_s = self.config.timeout_s + RENDEZVOUS_MARGIN_S
        with LAUNCHER.supervise(lambda: self.conclude(silence), start_limit_s):
            failure = self.start_ranks()
        with LAUNCHER.concluding:
            code = self.conclude(failure)
        if STOP.signal is not None and code:
            end_process(code)  # an interpreter with torch takes seconds to end
        return code

    def start_ranks(self) -> Failure | None:
        """Run accelerate's launcher to its end; None if all ranks left with 0, else what is known of the failure.

        The ranks read the configuration from a file.
        """
        from accelerate.utils import patch_environment

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        with temporary_folder() as folder:  # torch itself would leave both of these in TMPDIR
            self.arguments.log_dir = str(folder)
            final_error, keys = folder / "error.json", folder / "keys.yaml"
            self.arguments.training_script_args = ["--config", str(keys), f"--run={self.config.run}"]  # for ps
            environment = {FINAL_ERROR: final_error, COMPILED: os.environ.get(COMPILED, folder / "compiled")}
            try:
                keys.write_text(yaml.safe_dump(to_dict(self.config)), encoding="utf-8")
                with patch_environment(**environment):
                    failure = self.call_accelerate()
                if final_error.exists():
                    values = parse_json(final_error.read_bytes())
                    failure = Failure(values["code"], values["sentence"], is_reported=True)
            except OSError as error:  # it needs temporary files
                if (refusal := as_storage_error(error)) is None:
                    raise
                raise refusal from None
            return failure

    def call_accelerate(self) -> Failure | None:
        """Run accelerate's launcher, which ends when the ranks have. Raises ``OSError``."""
        from accelerate.commands.launch import launch_command

        try:
            if STOP.signal is None:
                launch_command(self.arguments)
        except subprocess.CalledProcessError as error:
            return describe_exit(0, error.returncode, {})
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            return describe_exit(0, code, {}) if error.code else None
        except ConnectionError:
            sentence = (
                f"main_process_port: {self.arguments.main_process_port} is taken by another program on "
                f"{platform.node()}; name another, the same on every machine"
            )
            return Failure(ConfigError.exit_code, sentence)
        except Exception as error:
            return self.describe_error(error)
        return None

    def describe_error(self, error: Exception) -> Failure:
        """The failure of the rank that failed first, from an exception of torch's launcher; without any rank, the
        machines did not meet.

        The order of causes: killed ranks, those that ended by themselves, those that were aborted, those that report
        that another one was gone. Within these the rank's own time decides, since torch's has whole seconds.
        """
        failures = getattr(error, "failures", None)
        if failures:
            return describe_failures(failures)
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if self.arguments.num_machines == 1:
            return Failure(1, f"the launcher stopped: {reason}")
        return Failure(
            1,
            f"machine {self.arguments.machine_rank} of {self.arguments.num_machines}: the machines did not meet at "
            f"{where_to_meet(self.arguments)} within {self.config.timeout_s} s ({reason}); start the same command on "
            "each, with its own --machine_rank, and see whether they reach that address and port",
        )

    def state(self) -> State | None:
        """The run's state as written by the ranks of this launch; None if they have written none.

        On another machine than the first one the status has the name of that machine's launch.
        """
        status = read_status(self.config.run)
        is_own = status.get("launch") == self.id
        is_new = bool(self.arguments.machine_rank) and status.get("launch") != self.earlier_id
        return status["state"] if is_own or is_new else None

    def conclude(self, failure: Failure | None) -> int:
        """The exit code in ``status.json``, if this launch wrote one; else the launcher's own, which it writes there.

        =========================================  ====================================================================
        what happened                              exit code
        =========================================  ====================================================================
        status.json: finished, or preempted        0 if no rank failed, or 85
        a second Ctrl-C                            130
        a rank did not answer a stop signal        1
        a stop signal before there was anything    85, and status.json: preempted
        to save
        status.json: failed                        its own; where that is 1, the launcher may know which was lost
        anything else                              that of the rank that failed first; 1 if it is not documented
        =========================================  ====================================================================

        A dry run has no status.
        """
        status, state = read_status(self.config.run), self.state()
        is_finished = status.get("state") == "finished" and (state is not None or STOP.signal is None)
        if is_finished and (failure is None or STOP.is_urgent):  # by another launch too, whose end this one waited for
            return 0
        if state == "preempted":
            return PREEMPTED
        if self.config.dry_run and failure is None and STOP.signal is None:
            return 0
        if LAUNCHER.verdict is not None:
            failure = Failure(*LAUNCHER.verdict)
        elif STOP.signal is not None and state in (None, "running") and not (failure and failure.is_reported):
            reason = f"stopped by {STOP.name} before the first step; the same command goes on"
            failure = Failure(PREEMPTED, reason)
        elif state == "failed" and (failure is None or status["exit_code"] != 1):
            if self.arguments.machine_rank and failure is not None and not failure.is_reported:
                print_stderr(f"error: {status['reason']}")  # which was printed on the first machine
            return int(status["exit_code"])
        failure = failure or Failure(1, "the processes ended without recording how the run ended")
        if self.may_write(state, failure):
            with contextlib.suppress(UserError):
                new_state: State = "preempted" if failure.code == PREEMPTED else "failed"
                write_status(self.config.run, Ending(new_state, status.get("step", 0), failure.code, failure.sentence))
        if not failure.is_reported:
            print_stderr(f"error: {failure.sentence}")
        return failure.code

    def may_write(self, state: State | None, failure: Failure) -> bool:
        """Whether the status is to say how the launcher saw the end; rank 0 may know better which rank was lost."""
        if self.config.dry_run:
            return False
        if state is None:  # no rank came so far
            if failure.is_reported or self.arguments.machine_rank or not is_free(Path(self.config.run)):
                return False
            return bool(read_status(self.config.run).get("state") != "finished")
        return state == "running" or not failure.follows


def describe_failures(failures: Mapping[int, Any]) -> Failure:
    """The failure of the rank that is the cause, from torch's records of those that failed."""
    causes = []
    for rank, record in failures.items():
        words = record.error_file_data if "follows" in record.error_file_data else {}  # torch itself leaves others
        order = 3 if words.get("follows") else SIGNAL_ORDER.get(record.exitcode, int(record.exitcode > 0))
        causes.append(((order, words.get("timestamp", record.timestamp), int(rank)), record.exitcode, words))
    (_, _, rank), code, words = min(causes, key=lambda cause: cause[0])
    return describe_exit(rank, code, words)


def describe_exit(rank: int, code: int, words: Mapping[str, Any]) -> Failure:
    """The failure of the rank that ended first: ``code``, below 0 the signal that killed it, and its own report."""
    if code == -signal.SIGBUS:
        return Failure(3, f"rank {rank} was killed by SIGBUS: {SIGBUS_CAUSE}")
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    is_documented = code in ERRORS  # any other one of a rank becomes 1
    return Failure(
        code if is_documented else 1,
        words.get("message", f"rank {rank} {ending}"),
        is_reported=is_documented or bool(words),
        follows=words.get("follows", False),
    )
