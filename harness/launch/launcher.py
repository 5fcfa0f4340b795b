# SPDX-License-Identifier: Apache-2.0
"""One training of ``padless train``: accelerate's own launcher, with checks before the start, one-line errors and the
run's exit code.

``accelerate launch`` turns every failure into exit code 1 under a traceback. Here the configuration and the dataset
are checked before any process starts, every value is passed, stop signals reach the ranks, and the exit code is the
one in the run's ``status.json``. The rendezvous of several machines is torch's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import yaml

from harness.baselines.sentence_encoder import find_encoder
from harness.baselines.teacher import is_file_name, prepare_teacher
from harness.config import RunConfig
from harness.data.run_rows import check_data
from harness.distributed import devices
from harness.distributed.stopping import REASONS, read_reasons
from harness.launch.options import TrainConfig, accelerate_arguments, complete_options
from harness.output.tracking import check_tracker
from harness.rundir.layout import MAX_CLAIM_S, check_claim, is_free
from harness.rundir.records import LAUNCH_ID, Ending, State, read_status, write_status
from harness.training import preflight
from harness.training.rules import CHOICES, ResolvedConfig, processes_on_cores, resolve_config
from padless.core.atomic import temporary_folder
from padless.core.errors import ERRORS, ConfigError, DataError, UserError
from padless.core.jobs import ProcessPool
from padless.core.processes import available_cores
from padless.core.signals import INTERRUPTED, PREEMPTED, STOP, end_process
from padless.core.terminal import Screen, print_stderr

COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: folder for torch's compiled code. Without it torch makes one in TMPDIR when imported."""
SIGBUS_CAUSE = "a mapped shard was truncated, or its disk failed; padless inspect --verify reads the dataset again"
"""What SIGBUS means to a process whose data is mapped."""
POLL_S = 0.1
SAVE_LIMIT_S = 300.0
"""Most time for ranks at work to save."""
AGENT_LIMIT_S = 5.0
"""Most time for this process to end once its ranks are gone: torch's agent may wait for other machines."""
RESUMES = "the last whole checkpoint is kept, and the same command goes on"
RENDEZVOUS_MARGIN_S = 30.0
"""How much longer than its own limit torch may take to report that the rendezvous failed."""
FOLLOWING = (PREEMPTED, -signal.SIGTERM)
"""Exit codes of ranks that torch's agent has terminated since another one was gone."""


Start: TypeAlias = Callable[[ResolvedConfig, TrainConfig, int], int]
"""Runs a resolved training with so many processes on all machines; returns its exit code."""


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


def find_overdue(processes: str, stopped_at: float) -> Failure | None:
    """Why ``processes``, which were to save and end at ``stopped_at`` (monotonic seconds), have to be killed; None
    while they may save.
    """
    if STOP.is_urgent:
        return Failure(INTERRUPTED, f"interrupted twice from the keyboard: ended at once; {RESUMES}")
    if time.monotonic() > stopped_at + SAVE_LIMIT_S:
        cause = STOP.name or "another one had failed"
        reason = f"the {processes} had not ended {SAVE_LIMIT_S:.0f} s after {cause}, and were killed"
        return Failure(1, f"{reason}; {RESUMES}")
    return None


def launch_training(launch_config: TrainConfig, recipe: RunConfig, start: Start) -> int:
    """Check, start, wait; returns the run's own exit code."""
    screen = Screen(quiet=recipe.quiet)
    screen.show_work("reading the dataset")
    check_tracker(recipe.tracking)
    if not recipe.dry_run:  # another launch reads the status of its run when its ranks have ended
        check_claim(Path(recipe.run), MAX_CLAIM_S)
    options = complete_options(launch_config)
    devices.check_device(options.device)
    recipe = prepare_teacher_apart(replace(recipe, device=options.device, threads=options.threads))
    resolved, num_processes = resolve(options, recipe)
    config = resolved.config
    checkpoint, has_finished = preflight.check_run(config, print_stderr)
    if has_finished and not config.dry_run:
        screen.print_text(preflight.describe_finished(config))
        return 0
    check_data(config, num_processes)
    if checkpoint is None and not options.machine_rank:
        preflight.check_start(config)
    if options.num_machines and options.num_machines > 1:
        screen.print_text(f"waiting up to {config.timeout_s} s for the other machines at {rendezvous_of(options)}")
    return start(resolved, options, num_processes)


def run_ranks(resolved: ResolvedConfig, options: TrainConfig, num_processes: int) -> int:
    """Start the ranks of a training and wait for their end; returns its exit code."""
    return Launch(resolved, options, num_processes).run()


def resolve(options: TrainConfig, recipe: RunConfig) -> tuple[ResolvedConfig, int]:
    """The keys of a training without ``auto``, for its ranks too, and the number of processes on all machines."""
    num_cards, num_processes = None, options.num_processes or 1
    if not devices.is_without_cuda():  # else known without torch
        num_cards = devices.count_cards(recipe.device, -(-num_processes // (options.num_machines or 1)), num_processes)
    resolved = resolve_config(recipe, lambda: num_cards)
    if options.num_processes is None and num_cards is None and recipe.threads is None:
        choice = processes_on_cores(resolved.config, available_cores())
        return replace(resolved, processes=choice.reason), int(choice.value)
    return resolved, num_processes


def prepare_teacher_apart(config: RunConfig) -> RunConfig:
    """``prepare_teacher``, an encoder's in a process of its own, which leaves no memory and no GPU context behind.

    Raises what that raises, and ``UserError`` if the process dies.
    """
    if config.teacher is None or is_file_name(config.teacher):
        return prepare_teacher(config)
    find_encoder(config.teacher)  # a misspelt name is refused before a process starts
    try:
        with ProcessPool(1) as pool:
            # cannot hang: the work ends, and the process with its pipe
            taught: RunConfig = pool.submit(prepare_teacher, config).result()
            return taught
    except BrokenExecutor:
        problem = "the process that embeds the texts died; was it killed for its memory?"
        raise UserError(f"teacher: {problem} Run the same command to continue") from None


def rendezvous_of(options: TrainConfig) -> str:
    """Address and port of machine 0."""
    return f"{options.main_process_ip}:{options.main_process_port}"


class Launch:
    """One start of the ranks, and what became of the run."""

    def __init__(self, resolved: ResolvedConfig, options: TrainConfig, num_processes: int) -> None:
        """``num_processes`` on all machines together."""
        self.resolved, self.config = resolved, resolved.config
        self.options, self.num_processes = options, num_processes
        self.id = os.environ[LAUNCH_ID] = uuid.uuid4().hex
        self.earlier_id = read_status(self.config.run).get("launch")
        self.verdict: Failure | None = None
        """Why the ranks were killed."""
        self.concluding = threading.Lock()
        """Held while the end of the run is written."""

    def run(self) -> int:
        """Start the ranks and wait for their end; returns the exit code."""
        STOP.must_save, ended = True, threading.Event()
        threading.Thread(target=self.end_ranks, args=(ended,), name="padless-ranks", daemon=True).start()
        try:
            failure = self.start_ranks()
        finally:
            ended.set()
        with self.concluding:
            return self.conclude(failure)

    def end_ranks(self, ended: threading.Event) -> None:
        """Pass the first stop signal to each rank, with SIGCONT; those with nothing to save leave. Kill all after
        ``SAVE_LIMIT_S`` or a second Ctrl-C. If torch's agent does not end then, or has started no rank in time (what
        answers for another machine may be another program), this process ends without it.
        """
        signalled = set[int]()
        failure: Failure | None = self.describe_error(TimeoutError("no answer"))
        deadline_s = time.monotonic() + self.config.timeout_s + RENDEZVOUS_MARGIN_S
        while not ended.wait(POLL_S):
            if STOP.signal is None and deadline_s == float("inf"):
                continue
            ranks = [child.pid for child in psutil.Process().children()]
            if STOP.signal is None and ranks:
                deadline_s = float("inf")
            elif ranks or deadline_s == float("inf"):
                deadline_s, failure = time.monotonic() + AGENT_LIMIT_S, None
            if time.monotonic() > deadline_s:
                with self.concluding:
                    end_process(self.conclude(failure))
            if STOP.signal is None:
                continue
            self.verdict = find_overdue("ranks", STOP.received_at)
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    if self.verdict is not None:
                        os.kill(rank, signal.SIGKILL)
                    elif rank not in signalled:
                        os.kill(rank, STOP.signal)
                        os.kill(rank, signal.SIGCONT)
                        signalled.add(rank)

    def start_ranks(self) -> Failure | None:
        """Run accelerate's launcher to its end; None if all ranks left with 0, else what is known of the failure.

        The ranks read the resolved keys from a file.
        """
        from accelerate.utils import patch_environment

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        with temporary_folder() as folder:  # torch itself would leave logs and compiled code in TMPDIR
            keys, reasons = folder / "keys.yaml", folder / "reasons.jsonl"
            environment = {
                REASONS: reasons,
                CHOICES: json.dumps([self.resolved.processes, self.resolved.reasons]),
                COMPILED: os.environ.get(COMPILED, folder / "compiled"),
            }
            keys.write_text(yaml.safe_dump(asdict(self.config)), encoding="utf-8")
            with patch_environment(**environment):
                words = ["--config", str(keys), f"--run={self.config.run}"]  # the run for ps
                arguments = accelerate_arguments(self.options, self.num_processes, words)
                arguments.log_dir = str(folder)
                return self.call_accelerate(arguments, reasons)

    def call_accelerate(self, arguments: Any, reasons: Path) -> Failure | None:
        """Run accelerate's launcher, which ends when the ranks have; they write why into ``reasons``."""
        from accelerate.commands.launch import launch_command

        exit_codes: dict[int, int] = {}
        try:
            if STOP.signal is None:
                launch_command(arguments)
                return None
        except (subprocess.CalledProcessError, SystemExit) as error:
            exit_codes = {0: getattr(error, "returncode", 1)}
        except ConnectionError:
            sentence = (
                f"main_process_port: {arguments.main_process_port} is taken by another program on "
                f"{platform.node()}; name another, the same on every machine"
            )
            return Failure(ConfigError.exit_code, sentence)
        except Exception as error:
            failures = getattr(error, "failures", None)
            if not failures:
                return self.describe_error(error)
            exit_codes = {int(rank): failure.exitcode for rank, failure in failures.items()}
        return describe_failures(exit_codes, read_reasons(reasons))

    def describe_error(self, error: Exception) -> Failure:
        """The failure that torch's launcher reports without any rank: several machines did not meet."""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if (self.options.num_machines or 1) == 1:
            return Failure(1, f"the launcher stopped: {reason}")
        return Failure(
            1,
            f"machine {self.options.machine_rank or 0} of {self.options.num_machines}: the machines did not meet at "
            f"{rendezvous_of(self.options)} within {self.config.timeout_s} s ({reason}); start the same command on "
            "each, with its own --machine_rank, and see whether they reach that address and port",
        )

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
        status = read_status(self.config.run)
        launch = status.get("launch")  # on another machine than the first one, the name of that machine's launch
        is_own = launch == self.id or (bool(self.options.machine_rank) and launch != self.earlier_id)
        state: State | None = status["state"] if is_own else None
        is_finished = status.get("state") == "finished" and (state is not None or STOP.signal is None)
        if is_finished and (failure is None or STOP.is_urgent):  # by another launch too, whose end this one waited for
            return 0
        if state == "preempted":
            return PREEMPTED
        if self.config.dry_run and failure is None and STOP.signal is None:
            return 0
        if self.verdict is not None:
            failure = self.verdict
        elif STOP.signal is not None and state in (None, "running") and not (failure and failure.is_reported):
            reason = f"stopped by {STOP.name} before the first step; the same command goes on"
            failure = Failure(PREEMPTED, reason)
        elif state == "failed" and (failure is None or status["exit_code"] != 1):
            if self.options.machine_rank and failure is not None and not failure.is_reported:
                print_stderr(f"error: {status['reason']}")  # which was printed on the first machine
            return int(status["exit_code"])
        failure = failure or Failure(1, "the processes ended without recording how the run ended")
        if state is None:  # no rank came so far
            is_known = failure.is_reported or self.options.machine_rank or status.get("state") == "finished"
            must_write = not is_known and is_free(Path(self.config.run))
        else:  # rank 0 may know better which rank was lost
            must_write = state == "running" or not failure.follows
        if must_write and not self.config.dry_run:
            with contextlib.suppress(UserError):
                new_state: State = "preempted" if failure.code == PREEMPTED else "failed"
                write_status(self.config.run, Ending(new_state, status.get("step", 0), failure.code, failure.sentence))
        if not failure.is_reported:
            print_stderr(f"error: {failure.sentence}")
        return failure.code


def describe_failures(exit_codes: Mapping[int, int], reasons: Sequence[Mapping[str, Any]]) -> Failure | None:
    """The cause, from the exit codes of the ranks that failed (below 0: the signal that killed it) and what ranks
    wrote; None without any: the first rank that reports an error of its own, else one that was killed, else the first
    that reports that another one was gone.
    """
    for line in reasons:
        if not line["follows"]:
            return Failure(line["code"], line["sentence"], is_reported=True)
    silent_ranks = exit_codes.keys() - {line["rank"] for line in reasons}
    killed_ranks = [rank for rank in silent_ranks if exit_codes[rank] not in FOLLOWING]
    if reasons and not killed_ranks:
        return Failure(1, reasons[0]["sentence"], is_reported=True, follows=True)
    # NCCL's watchdog aborts ranks whose peer is gone.
    for rank in sorted(killed_ranks or exit_codes, key=lambda rank: exit_codes[rank] == -signal.SIGABRT):
        code = exit_codes[rank]
        if code == -signal.SIGBUS:
            return Failure(DataError.exit_code, f"rank {rank} was killed by SIGBUS: {SIGBUS_CAUSE}")
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Failure(code if code in ERRORS else 1, f"rank {rank} {ending}")
    return None
