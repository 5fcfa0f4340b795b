# SPDX-License-Identifier: Apache-2.0
"""``padless train``: accelerate's own launcher, with checks before the start, one-line errors and the run's
exit code; one training, one for each seed, or one for each fold.

``accelerate launch`` turns every failure into exit code 1 under a traceback. Here the configuration and the dataset
are checked before any process starts, every value is passed, stop signals reach the ranks, and the exit code is the
one in the run's ``status.json``. With seeds or folds::

    RUN/seed-0/ …                      a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it
    RUN/seeds.json                     figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html                    the same as a page

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. Each training is one
that could have been started by hand. The same command resumes after an interruption: finished trainings are skipped, an
interrupted one goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from harness.config import LANGUAGE_MODEL, NOTHING, LaunchRecipe, RunConfig, to_dict
from harness.data.views import check_folds
from harness.launch import meeting
from harness.launch.options import TrainConfig, accelerate_arguments, free_port
from harness.launch.stop import AT_ONCE, INTERRUPTED, STOP, leave
from harness.ranks import devices
from harness.ranks.stopping import EXIT_CODE
from harness.report.page import write_report_quietly
from harness.report.runs import collect, linear_on_folds, over_all_rows
from harness.rundir import layout, results
from harness.rundir.layout import REPORT, Member
from harness.rundir.records import Ending, State, is_free, read_status, write_status
from harness.scores.tables import spread_table
from harness.training import preflight
from harness.training.rules import processes_on_cores, resolve, with_values
from preprocessing.base.atomic import temporary_folder, told
from preprocessing.base.errors import ERRORS, ConfigError, UserError
from preprocessing.base.processes import available_cores
from preprocessing.base.terminal import Screen, tell
from preprocessing.dataset.views import read_data

END_LIMIT_S = 60
RESTARTS = 3
"""Default of ``--max_restarts`` for several machines: one of them is lost sooner or later."""
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: folder for torch's compiled code. Without it torch makes one in TMPDIR when imported."""
LOST_PAGES = (
    "a mapped file, such as a shard, was truncated under the running job, or its disk failed; "
    "verify the dataset with padless check, and check the disk"
)
"""What SIGBUS means to a process whose data is mapped."""
LATE = {-signal.SIGABRT: 2, -signal.SIGTERM: 4}
"""Order in which ranks that a signal ended are taken as the cause, lowest first; 0 for any other signal. NCCL's
watchdog aborts ranks whose peer is gone, and the elastic agent terminates all that are left."""


@dataclass(frozen=True)
class Failure:
    """What the launcher knows of a failure."""

    code: int
    """The exit code to return, if the run has none of its own."""
    sentence: str
    said: bool = False
    """A rank has already printed why."""
    follows: bool = False
    """The rank ended because another one was gone."""


def train(asked: TrainConfig, recipe: RunConfig) -> int:
    """Check, start, wait; returns the run's own exit code."""
    screen, checked = Screen(quiet=recipe.quiet), None
    screen.show_work("reading the dataset")
    devices.check_device("cuda" if asked.gpu_ids or (asked.multi_gpu and not asked.cpu) else recipe.device)
    on_cpu = resolve(recipe).config  # what can be refused is refused before accelerate imports torch
    if devices.is_without_cuda():
        checked = preflight.check_run(on_cpu, tell)
    arguments, recipe = accelerate_arguments(asked, recipe)
    place = meeting.place_of(arguments)
    here = -(-arguments.num_processes // arguments.num_machines)
    cards = devices.cards(recipe.device, here, arguments.num_processes)
    config = resolve(recipe, lambda: cards).config
    os.environ.pop(devices.CHOSEN, None)  # of the training before
    if arguments.leaves_processes and cards is None and config.threads is None:
        choice = processes_on_cores(config, available_cores())
        arguments.num_processes, os.environ[devices.CHOSEN] = int(choice.value), choice.reason
        arguments.multi_gpu = arguments.num_processes > 1
    point = checked if checked and config == on_cpu else preflight.check_run(config, tell)
    if point.finished and not config.dry_run:
        screen.say(f"{config.run} has finished already; name another run directory to train again")
        return 0
    preflight.check_data(config, arguments.num_processes)
    if point.checkpoint is None and not arguments.machine_rank:
        preflight.check_start(config)
    if place is not None:
        meeting.name_network(place, screen.say)
    begin = partial(meeting.name_start, place, recipe, screen.say, uuid.uuid4().hex)
    return run_with_restarts(recipe, arguments, begin)


def run_with_restarts(config: RunConfig, arguments: Any, begin: Callable[[int], str]) -> int:
    """Start the ranks; if one is lost, restart all from the last checkpoint, at most ``max_restarts`` times.

    ``begin`` returns the name of each attempt once all machines are ready for it.
    """
    several = arguments.num_machines > 1
    restarts = (RESTARTS if several else 0) if arguments.max_restarts is None else int(arguments.max_restarts)
    for attempt in range(max(restarts, 0) + 1):
        if attempt:
            tell(f"restart {attempt} of {restarts}, from the last checkpoint")
            if not several:
                arguments.main_process_port = free_port()
        code, lost = run_once(config, arguments, begin(attempt))
        if not lost:
            break
    return code


def run_once(config: RunConfig, arguments: Any, launch_id: str) -> tuple[int, bool]:
    """Start the ranks and wait for their end; the exit code, and whether one was lost, so that a restart may help."""
    run, several, elsewhere = Path(config.run), arguments.num_machines > 1, bool(arguments.machine_rank)

    def given_up() -> int:
        return outcome(run, launch_id, Failure(1, "the processes did not end"), config.dry_run)

    # What ranks of other machines have to save is not seen from here.
    with STOP.ranks(lambda: several or state_of(run, launch_id) is not None, given_up):
        failure = start(arguments, config)
    if failure is None and config.dry_run and not STOP.heard:
        return 0, False
    if failure is None and elsewhere:  # rank 0, on another machine, may still be closing trackers
        deadline = time.monotonic() + END_LIMIT_S
        while state_of(run, launch_id) in (None, "running") and time.monotonic() < deadline:
            time.sleep(meeting.LOOK_EVERY_S)
    if failure is not None and failure.code == 1 and not STOP.heard and not elsewhere:
        meeting.note_end(config, failure.sentence, 1)
    with STOP.deciding:
        code = outcome(run, launch_id, failure, config.dry_run)
    if STOP.heard and code:
        leave(code)  # an interpreter with torch takes seconds to end
    return code, code == 1 and failure is not None and not STOP.heard


def state_of(run: Path, launch_id: str) -> str | None:
    """The run's state as written by the ranks of this launch; None if they have written none."""
    status = read_status(run)
    return status["state"] if status.get("launch") == launch_id else None


def start(arguments: Any, config: RunConfig) -> Failure | None:
    """Run accelerate's launcher to its end; None if all ranks left with 0, else what is known of the failure. The ranks
    read the configuration from a file.
    """
    from accelerate.commands.launch import launch_command

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    given = copy(arguments)  # a restart must not take accelerate's decisions, as on threads, for the user's
    given.max_restarts = 0  # torch's agent would restart the ranks of this machine alone
    with temporary_folder() as folder, patch.dict(os.environ):  # torch itself would leave both of these in TMPDIR
        given.log_dir = given.log_dir or str(folder)
        os.environ.setdefault(COMPILED, str(folder / "compiled"))
        keys = folder / "keys.yaml"
        given.training_script_args = ["--config", str(keys), f"--run={config.run}"]  # so that ps shows the run
        try:
            keys.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
            if not STOP.heard:
                launch_command(given)
            return None
        except subprocess.CalledProcessError as error:
            return describe_exit(0, error.returncode, {})
        except SystemExit as error:
            return describe_exit(0, error.code if isinstance(error.code, int) else 1, {}) if error.code else None
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and (refusal := told(error)) is not None:  # it needs temporary files
                raise refusal from None
            return describe_failure(error)


def run_module(arguments: Any, config: RunConfig) -> int:
    """Run ranks that write no status; returns their exit code."""
    failure = start(arguments, config)
    if failure is not None and not failure.said and not STOP.heard:
        tell(f"error: {failure.sentence}")
    return 0 if failure is None else failure.code


def outcome(run: Path, launch_id: str, failure: Failure | None, dry_run: bool = False) -> int:
    """The exit code in ``status.json``, if this launch wrote one; else the launcher's own, which it writes there.

    ===========================================  ==================================================================
    what happened                                exit code
    ===========================================  ==================================================================
    the run says finished, or preempted          0 if no rank failed, or 85
    a second Ctrl-C                              130
    a rank did not answer a stop signal          1
    a stop signal before anything could be lost  85, and the status says preempted
    the run says failed                          its own; where that is 1, the launcher may know which was lost
    anything else                                that of the rank that failed first; 1 if it is not documented
    ===========================================  ==================================================================

    A dry run has no status.
    """
    status, state = read_status(run), state_of(run, launch_id)
    if state == "finished" and (failure is None or STOP.now):
        return 0
    if state == "preempted":
        return EXIT_CODE
    end = failure or Failure(1, "the processes ended without recording how the run ended")
    to: State = "failed"
    writes = not dry_run and (state is not None or is_free(run))
    if STOP.now or STOP.verdict is not None:
        end = Failure(INTERRUPTED, AT_ONCE) if STOP.now else Failure(1, STOP.verdict or "")
    elif STOP.heard and not end.said and (state is None or (state == "running" and STOP.unbegun)):
        reason = f"told to stop before the first step ({STOP.heard[0]} received); the same command goes on"
        to, end = "preempted", Failure(EXIT_CODE, reason)
    elif state == "failed" and (failure is None or status["exit_code"] != 1):
        return int(status["exit_code"])
    else:  # rank 0 may know better which rank was lost
        writes = state == "running" or (state is not None and not end.follows)
    if writes:
        with contextlib.suppress(UserError):
            write_status(run, Ending(to, status.get("step", 0), end.code, end.sentence))
    if not end.said:
        tell(f"error: {end.sentence}")
    return end.code


def describe_failure(error: Exception) -> Failure:
    """The rank that failed first, from an exception of the elastic launcher.

    The order of causes: killed ranks, those that ended by themselves, those that were aborted, those that report that
    another one was gone. Within these the rank's own time decides, since torch's has whole seconds.
    """
    failures = getattr(error, "failures", None)
    if not failures:
        return Failure(1, f"the launcher stopped: {' '.join(str(error).split()) or type(error).__name__}")
    found = []
    for rank, one in failures.items():
        words = one.error_file_data if "follows" in one.error_file_data else {}  # torch itself leaves others
        late = 3 if words.get("follows") else LATE.get(one.exitcode, int(one.exitcode > 0))
        found.append(((late, words.get("timestamp", one.timestamp), int(rank)), one.exitcode, words))
    (_, _, rank), code, words = min(found, key=lambda each: each[0])
    return describe_exit(rank, code, words)


def describe_exit(rank: int, code: int, words: Mapping[str, Any]) -> Failure:
    """The failure of the rank that ended first: ``code``, below 0 the signal that killed it, and its own report."""
    if code == -signal.SIGBUS:
        return Failure(3, f"rank {rank} was killed by SIGBUS: {LOST_PAGES}")
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    known = code in ERRORS  # any other one of a rank becomes 1
    sentence = words.get("message", f"rank {rank} {how}")
    return Failure(code if known else 1, sentence, said=known or bool(words), follows=words.get("follows", False))


SHORTEST_S = 1.0
"""No training begins with less time than this."""


def main(asked: TrainConfig) -> int:
    """Train, run after run, each after the language model of ``init.pretrain``; the exit code of the first that failed,
    else 0 when the summary of several is written.

    Raises ``ConfigError`` or ``DataError`` before the first one begins.
    """
    own, runs = trainings(asked)
    if asked.is_unnamed:
        Screen(quiet=asked.quiet).say(f"The run is {asked.run}; -o names another directory.")
    steps: list[RunConfig] = []
    for config in own:
        first = preflight.pretraining(config)
        steps += [config] if first is None else [first, config]
    if not runs and len(steps) == 1:
        return train(asked, steps[0])
    code = in_turn(steps, asked)
    if runs and not (code or asked.dry_run or accelerate_arguments(asked, asked)[0].machine_rank):
        conclude(runs, asked)
    return code


def check_named(asked: RunConfig) -> None:
    """Raise ``ConfigError`` if no dataset is named."""
    if asked.data == NOTHING:
        raise ConfigError("--data is missing: name a dataset directory, as in padless train data/mine")


def in_turn(steps: Sequence[RunConfig], asked: TrainConfig) -> int:
    """Train run after run, all together within ``max_time``; the exit code of the first that failed, else 0. A dry run
    does only the first one.
    """
    began, screen = time.monotonic(), Screen(quiet=asked.quiet)
    for number, config in enumerate(steps, 1):
        STOP.between()
        left = (asked.max_time_s or inf) - (time.monotonic() - began)
        if STOP.heard or left < SHORTEST_S:
            return EXIT_CODE
        screen.say("" if number == 1 else "\n")
        screen.fact(config.task.replace("_", " "), f"{number} of {len(steps)}: {config.run}")
        code = train(asked, config if left == inf else replace(config, max_time=f"{left:.0f}"))
        if code or asked.dry_run:
            return code
    STOP.between()
    return EXIT_CODE if STOP.heard else 0


def keys_of(run: Member, asked: LaunchRecipe) -> dict[str, Any]:
    """The keys in which a training differs from the others: seed or fold, directory, and its name for trackers."""
    folder = Path(asked.run).resolve().name
    return {
        run.kind: run.number,
        "run": str(run.path),
        "tracking.group": asked.tracking.group or folder,
        "tracking.name": f"{asked.tracking.name or folder} {run.name}",
    }


def planned(asked: LaunchRecipe) -> list[Member]:
    """The trainings of a command, in order; empty for a single one. Raises ``ConfigError`` or ``DataError``."""
    if asked.seeds is not None:
        runs = [Member("seed", seed, Path(asked.run)) for seed in asked.seeds]
    elif asked.folds is not None:
        manifest = read_data(asked.data)
        check_folds(manifest, asked.data, "folds")
        if asked.folds not in ("all", manifest.folds):
            raise ConfigError(
                f"folds: {asked.folds}, but {asked.data} was cut into {manifest.folds}; give --folds all, or build the "
                f"dataset again with --splits.folds {asked.folds}"
            )
        runs = [Member("fold", fold, Path(asked.run)) for fold in range(manifest.folds)]
    else:
        return []
    layout.check_many(asked.run, runs[0].kind)
    for run in runs:
        layout.check_directory(run.path)
    return runs


def trainings(asked: LaunchRecipe) -> tuple[list[RunConfig], list[Member]]:
    """The configuration of each training of a command; and what is planned of several. Raises ``ConfigError`` or
    ``DataError``.
    """
    check_named(asked)
    read_data(asked.data)
    runs = planned(asked)
    return [with_values(asked.recipe, keys_of(run, asked)) for run in runs] or [asked.recipe], runs


def conclude(runs: Sequence[Member], asked: LaunchRecipe) -> None:
    """Write the summary and the report of all runs, and print their spread. Raises ``StorageError``."""
    folder, kind, values = Path(asked.run), runs[0].kind, collect(runs)
    if kind == "fold" and asked.task != LANGUAGE_MODEL:
        values["out_of_fold"] = over_all_rows(folder, runs, values["labels"])
        if (linear := linear_on_folds(runs, values)) is not None:
            values["linear"] = linear
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
    screen = Screen(quiet=asked.quiet)
    for split in values["splits"]:
        screen.say(f"{split}:")
        of_runs = [one["splits"][split] for one in values["runs"]]
        screen.table(spread_table([one.name for one in runs], of_runs, screen.width))
    if (pooled := values.get("out_of_fold")) is not None:
        low, high = pooled["intervals"]["accuracy"]
        of_rows = f"accuracy {pooled['accuracy']:.4f} ({low:.4f} to {high:.4f} over rows)"
        screen.say(f"all {pooled['rows']:,} rows, each by the run that did not learn from it: {of_rows}")
    screen.say(f"written to {results.summary_path(folder, kind)} and {REPORT}", "good")
