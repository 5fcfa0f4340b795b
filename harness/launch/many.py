# SPDX-License-Identifier: Apache-2.0
"""``padless train``: one training, one for each seed, or one for each fold. With seeds or folds::

    RUN/seed-0/ …                      a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it
    RUN/seeds.json                     figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html                    the same as a page

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. Each training is one
that could have been started by hand. As many run at the same time as cards or cores hold, each in a fork of one server
that has torch loaded. The same command resumes after an interruption: finished trainings are skipped, interrupted ones
go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import psutil

from harness.config import AUTO, LANGUAGE_MODEL, NOTHING, RunConfig, name_run
from harness.data.run_rows import check_folds
from harness.distributed import devices
from harness.launch import launcher
from harness.launch.options import TrainConfig, complete_options
from harness.metrics.figures import spread_table
from harness.output.many_runs import collect, score_all_rows
from harness.output.report import write_report_quietly
from harness.rundir import layout, results
from harness.rundir.layout import REPORT, Member
from harness.rundir.records import Ending, read_status, write_status
from harness.rundir.results import read_measured
from harness.training import preflight
from harness.training.rules import PROCESS_BYTES, ResolvedConfig, processes_on_cores, resolve_config, with_values
from padless.core.cli import print_json
from padless.core.errors import ConfigError, UserError
from padless.core.fork_server import SERVER, Call
from padless.core.jobs import Share
from padless.core.processes import POLL_S, available_cores
from padless.core.signals import PREEMPTED, STOP, listen_in_launcher, listen_in_rank
from padless.core.terminal import Live, Screen, count_noun, print_stderr
from preprocessing.dataset.views import read_data

KEPT_LINES = 40
"""Of what a member prints; its ``log.txt`` has all."""
TRACEBACK = "Traceback (most recent call last):"
SHORTEST_S = 1.0
"""No further training begins with less time than this."""


def main(launch_config: TrainConfig, start: launcher.Start = launcher.run_ranks) -> int:
    """Train, each run after the language model of ``init.pretrain``; the exit code of the first that failed, else 0
    when the summary of several is written.

    Raises ``ConfigError`` or ``DataError`` before the first one begins.
    """
    if launch_config.data == NOTHING:
        raise ConfigError("--data is missing: name a dataset directory, as in padless train data/mine")
    launch_config = replace(launch_config, quiet=launch_config.quiet or launch_config.json)
    read_data(launch_config.data)
    if launch_config.run == AUTO:
        launch_config = name_run(launch_config)
        Screen(quiet=launch_config.quiet).print_text(f"The run is {launch_config.run}; -o names another directory.")
    members = plan_members(launch_config)
    if members:
        code = train_members(members, launch_config)
    else:
        code = train_in_turn(list_steps(launch_config.recipe), launch_config, start)
    if code or launch_config.machine_rank or launch_config.dry_run:
        return code
    if not members and launch_config.json:
        measured = read_measured(Path(launch_config.run))
        print_json({"run": launch_config.run, **(measured.figures if measured else {})})
    elif members and all(read_status(member.path).get("state") == "finished" for member in members):
        finish_runs(members, launch_config)
    return 0


def list_steps(config: RunConfig) -> list[RunConfig]:
    """The trainings of a run, in order: its language model, if it begins with one, and its classifier."""
    language_model = preflight.pretraining(config)
    return [config] if language_model is None else [language_model, config]


def train_members(members: Sequence[Member], launch_config: TrainConfig) -> int:
    """Train the members, or the share ``--members`` of them, at the same time where that is possible; the exit code of
    the first that failed, else 0.
    """
    share = Share.parse(launch_config.members)
    steps_by_member = {
        member: list_steps(with_values(launch_config.recipe, member_keys(member, launch_config)))
        for member in members[share.index :: share.count]
    }
    slots = [] if launch_config.dry_run else plan_slots(launch_config, len(steps_by_member))
    if len(slots) < 2:
        return train_in_turn([step for steps in steps_by_member.values() for step in steps], launch_config)
    if launch_config.num_processes is None and devices.VISIBLE not in slots[0]:
        first_config = resolve_config(next(iter(steps_by_member.values()))[-1]).config
        choice = processes_on_cores(first_config, available_cores() // len(slots))
        launch_config = replace(launch_config, num_processes=int(choice.value))
    return Members(steps_by_member, launch_config, slots).train()


def train_in_turn(
    steps: Sequence[RunConfig], launch_config: TrainConfig, start: launcher.Start = launcher.run_ranks
) -> int:
    """Train run after run, all together within ``max_time``; the exit code of the first that failed, else 0. A dry run
    does only the first one.
    """
    until_s, screen = time.monotonic() + (launch_config.max_time_s or inf), Screen(quiet=launch_config.quiet)
    for number, config in enumerate(steps, 1):
        STOP.must_save = False
        left_s = until_s - time.monotonic()
        if STOP.signal is not None or (number > 1 and left_s < SHORTEST_S):
            return PREEMPTED
        if len(steps) > 1:
            screen.print_text("")
            screen.fact(config.task.replace("_", " "), f"{number} of {len(steps)}: {config.run}")
        max_time = launch_config.max_time if number == 1 or left_s == inf else f"{left_s:.0f}"
        config_within = replace(config, max_time=max_time)
        code = launcher.launch_training(launch_config, config_within, start)
        if code or launch_config.dry_run:
            return code
    STOP.must_save = False
    return 0


def plan_slots(launch_config: TrainConfig, num_members: int) -> list[dict[str, str]]:
    """The environment variables of each of the trainings that run at the same time: ``members_per_device`` for each
    card, or one for each group of ``num_processes``; on CPUs one for each core, or group, that memory holds.

    Trainings on several machines run one after the other, and all where processes cannot be forked, as on Windows.
    """
    options, num_processes = complete_options(launch_config), launch_config.num_processes or 1
    if (options.num_machines or 1) > 1 or not hasattr(os, "fork"):
        return [{}]
    if not devices.is_without_cuda():
        cuda = devices.find_cuda()
        if devices.choose(options.device, num_processes, cuda)[0] == "cuda":
            cards = cuda.visible.split(",") if cuda.visible else [str(card) for card in range(cuda.num_devices)]
            starts = range(0, cuda.num_devices - num_processes + 1, num_processes)
            groups = [",".join(cards[start : start + num_processes]) for start in starts]
            return [{devices.VISIBLE: group} for group in groups * launch_config.members_per_device][:num_members]
    by_cores = available_cores() // (num_processes * (options.threads or 1))
    by_memory = psutil.virtual_memory().available // (num_processes * PROCESS_BYTES)
    return [{devices.OMP: str(options.threads or 1)}] * min(by_cores, by_memory, num_members)


def train_member(steps: Sequence[RunConfig], launch_config: TrainConfig) -> int:
    """Train one member in this process, which a server has forked; its exit code."""
    from harness.distributed.stopping import run_rank

    listen_in_launcher()
    return run_rank(lambda _: train_in_turn(steps, launch_config, start_here))


def start_here(resolved: ResolvedConfig, options: TrainConfig, num_processes: int, *, reports: bool = True) -> int:
    """Train in this process, which then ends, or in ranks of it if there are several; its exit code. Without
    ``reports`` no figures are written.
    """
    if num_processes > 1:
        return launcher.run_ranks(resolved, options, num_processes)
    from harness.train import fit

    listen_in_rank()
    fit(resolved, reports=reports)
    return int(read_status(resolved.config.run).get("exit_code", 0))  # of a dry run there is none


@dataclass
class Slot:
    """A place for one training at a time."""

    variables: Mapping[str, str]
    """Environment variables of its trainings."""
    member: Member | None = None
    call: Call | None = None
    """The process of its member, while there is one."""
    lines: deque[str] = field(default_factory=partial(deque, maxlen=KEPT_LINES))
    """The last ones that it printed."""


class Members:
    """Trainings of one command that run at the same time."""

    def __init__(
        self,
        steps_by_member: Mapping[Member, Sequence[RunConfig]],
        launch_config: TrainConfig,
        slots: Sequence[Mapping[str, str]],
    ) -> None:
        """Begin nothing yet."""
        self.steps_by_member, self.launch_config = steps_by_member, launch_config
        self.slots = [Slot(variables) for variables in slots]
        self.screen = Screen(quiet=launch_config.quiet)
        self.remaining_members = [*steps_by_member]
        self.code = 0
        """Of the first member that did not finish."""
        self.stopped_at = inf
        """When a stop signal was passed on to all."""
        self.verdict: launcher.Failure | None = None
        """Why members were killed."""

    def train(self) -> int:
        """Train all; if one fails, or a stop signal comes, the others save and end. The exit code of the first that
        failed, 85 after a signal or at the end of ``max_time``, else 0; 130 or 1 if they were killed before they saved.
        """
        until_s = time.monotonic() + (self.launch_config.max_time_s or inf)
        number = count_noun(len(self.slots), "training")
        self.screen.fact("members", f"{len(self.remaining_members)}, {number} at the same time")
        live = Live(self.describe, self.screen)
        STOP.must_save = True
        try:
            while self.remaining_members or any(slot.call for slot in self.slots):
                left_s = until_s - time.monotonic()
                if self.remaining_members and not self.code and (STOP.signal is not None or left_s < SHORTEST_S):
                    self.code = PREEMPTED
                if self.code:
                    self.remaining_members = []
                for slot in self.slots:
                    if slot.call is None and self.remaining_members:
                        self.begin(slot, left_s)
                    elif slot.call is not None:
                        self.follow(slot, slot.call)
                self.pass_on_stop()
                time.sleep(POLL_S)
        finally:
            live.close()
        STOP.must_save = False
        if self.verdict is not None:
            print_stderr(f"error: {self.verdict.sentence}")
            return self.verdict.code
        return self.code if STOP.signal is None else PREEMPTED

    def begin(self, slot: Slot, left_s: float) -> None:
        """Begin the next member that waits."""
        slot.member = self.remaining_members.pop(0)
        within = self.launch_config if left_s == inf else replace(self.launch_config, max_time=f"{left_s:.0f}")
        slot.lines.clear()
        slot.call = SERVER.begin(train_member, self.steps_by_member[slot.member], within, **slot.variables)

    def follow(self, slot: Slot, call: Call) -> None:
        """Keep the last lines that a member has printed; when it has ended, note its exit code, and print why."""
        has_ended = call.pipe.poll()
        while content := call.read_output(0):
            slot.lines.extend(line for line in content.decode(errors="replace").splitlines() if line.strip())
        if not has_ended:
            return
        assert slot.member is not None
        try:
            with call:
                code = call.result()  # cannot hang: it has ended
        except UserError as error:
            failure = self.verdict or launcher.Failure(error.exit_code, str(error))
            code = failure.code
            slot.lines.append(f"error: {failure.sentence}")
            note_death(slot.member.path, failure)
        if code and STOP.signal is None and not self.code:
            self.code = code
            *earlier_lines, last_line = slot.lines or [f"exit code {code}"]
            if TRACEBACK in earlier_lines:
                for line in earlier_lines[earlier_lines.index(TRACEBACK) :]:
                    print_stderr(line)
            print_stderr(f"error: {slot.member.name}: {last_line.removeprefix('error: ')}")
        elif not code:
            measured = read_measured(slot.member.path)
            accuracy = f", accuracy {measured.figures['accuracy']:.4f} on {measured.split}" if measured else ""
            self.screen.fact(slot.member.name, f"finished{accuracy}")
        slot.call = None

    def pass_on_stop(self) -> None:
        """Have all members save and end once one has failed or this process is to stop; kill them after a second Ctrl-C
        or ``SAVE_LIMIT_S``.
        """
        if not self.code and STOP.signal is None:
            return
        calls = [slot.call for slot in self.slots if slot.call is not None]
        self.verdict = self.verdict or launcher.find_overdue("trainings", self.stopped_at)
        if self.verdict is not None:
            for call in calls:
                call.kill(signal.SIGKILL)
        elif self.stopped_at == inf:
            self.stopped_at = time.monotonic()
            for call in calls:
                call.kill(STOP.signal or signal.SIGTERM)

    def describe(self) -> list[str]:
        """The live lines: one for each training at work, and how many wait."""
        lines = list[str]()
        for slot in self.slots:
            if slot.member and slot.call:
                last_line = slot.lines[-1].strip() if slot.lines else "begins"
                lines.append(f"{slot.member.name}  {last_line}")
        if self.remaining_members:
            lines.append(f"{count_noun(len(self.remaining_members), 'training')} to begin")
        return lines


def note_death(run: Path, failure: launcher.Failure) -> None:
    """Write into the status of a run that its process died, if the run says that it is at work."""
    status = read_status(run)
    if status.get("state") == "running":
        with suppress(UserError):
            write_status(run, Ending("failed", status["step"], failure.code, failure.sentence))


def member_keys(member: Member, launch_config: TrainConfig) -> dict[str, Any]:
    """The keys in which a training differs from the others: seed or fold, directory, and its name for trackers."""
    folder = Path(launch_config.run).resolve().name
    return {
        member.kind: member.number,
        "run": str(member.path),
        "tracking.name": f"{launch_config.tracking.name or folder} {member.name}",
    }


def plan_members(launch_config: TrainConfig) -> list[Member]:
    """The trainings of a command, in order; empty for a single one. Raises ``ConfigError`` or ``DataError``."""
    if launch_config.seeds is not None:
        members = [Member("seed", seed, Path(launch_config.run)) for seed in launch_config.seeds]
    elif launch_config.folds is not None:
        manifest = read_data(launch_config.data)
        check_folds(manifest, launch_config.data, "folds")
        if launch_config.folds not in ("all", manifest.folds):
            raise ConfigError(
                f"folds: {launch_config.folds}, but {launch_config.data} was cut into {manifest.folds}; give "
                f"--folds all, or build the dataset again with --splits.folds {launch_config.folds}"
            )
        members = [Member("fold", fold, Path(launch_config.run)) for fold in range(manifest.folds)]
    else:
        return []
    layout.check_many(launch_config.run, members[0].kind)
    for member in members:
        layout.check_directory(member.path)
    return members


def finish_runs(members: Sequence[Member], launch_config: TrainConfig) -> None:
    """Write the summary and the report of all runs, and print their spread. Raises ``StorageError``."""
    folder, kind, values = Path(launch_config.run), members[0].kind, collect(members)
    if kind == "fold" and launch_config.task != LANGUAGE_MODEL:
        values["out_of_fold"] = score_all_rows(folder, members, values["labels"])
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
    if launch_config.json:
        print_json(values)
    screen = Screen(quiet=launch_config.quiet)
    for split in values["splits"]:
        screen.print_text(f"{split}:")
        figures = [run["splits"][split] for run in values["runs"]]
        screen.write(spread_table(figures))
    if (pooled := values.get("out_of_fold")) is not None:
        low, high = pooled["intervals"]["accuracy"]
        accuracy = f"accuracy {pooled['accuracy']:.4f} ({low:.4f} to {high:.4f} over rows)"
        screen.print_text(f"all {pooled['rows']:,} rows, each by the run that did not learn from it: {accuracy}")
    screen.print_text(f"written to {results.summary_path(folder, kind)} and {REPORT}")
