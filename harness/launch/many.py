# SPDX-License-Identifier: Apache-2.0
"""``padless train``: one training, one for each seed, or one for each fold. With seeds or folds::

    RUN/seed-0/ …                      a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it
    RUN/seeds.json                     figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html                    the same as a page

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. Each training is one
that could have been started by hand. The same command resumes after an interruption: finished trainings are skipped, an
interrupted one goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from harness.config import AUTO, LANGUAGE_MODEL, NOTHING, LaunchRecipe, RunConfig, name_run
from harness.data.run_rows import check_folds
from harness.launch import launcher
from harness.launch.options import TrainConfig
from harness.metrics.tables import spread_table
from harness.output.many_runs import collect, score_all_rows
from harness.output.report import write_report_quietly
from harness.rundir import layout, results
from harness.rundir.layout import REPORT, Member
from harness.training import preflight
from harness.training.rules import with_values
from padless.core.errors import ConfigError
from padless.core.signals import PREEMPTED, STOP
from padless.core.terminal import Screen
from preprocessing.dataset.views import read_data

SHORTEST_S = 1.0
"""No training begins with less time than this."""


def main(launch_config: TrainConfig) -> int:
    """Train, run after run, each after the language model of ``init.pretrain``; the exit code of the first that failed,
    else 0 when the summary of several is written.

    Raises ``ConfigError`` or ``DataError`` before the first one begins.
    """
    check_named(launch_config)
    read_data(launch_config.data)
    if launch_config.run == AUTO:
        launch_config = name_run(launch_config)
        Screen(quiet=launch_config.quiet).print_text(f"The run is {launch_config.run}; -o names another directory.")
    members = plan_members(launch_config)
    configs = [with_values(launch_config.recipe, member_keys(member, launch_config)) for member in members] or [
        launch_config.recipe
    ]
    steps: list[RunConfig] = []
    for config in configs:
        language_model = preflight.pretraining(config)
        steps += [config] if language_model is None else [language_model, config]
    if not members and len(steps) == 1:
        return launcher.launch_training(launch_config, steps[0])
    code = train_in_turn(steps, launch_config)
    if members and not (code or launch_config.dry_run or launch_config.machine_rank):
        finish_runs(members, launch_config)
    return code


def check_named(launch_config: RunConfig) -> None:
    """Raise ``ConfigError`` if no dataset is named."""
    if launch_config.data == NOTHING:
        raise ConfigError("--data is missing: name a dataset directory, as in padless train data/mine")


def train_in_turn(steps: Sequence[RunConfig], launch_config: TrainConfig) -> int:
    """Train run after run, all together within ``max_time``; the exit code of the first that failed, else 0. A dry run
    does only the first one.
    """
    began, screen = time.monotonic(), Screen(quiet=launch_config.quiet)
    for number, config in enumerate(steps, 1):
        STOP.must_save = False
        left_s = (launch_config.max_time_s or inf) - (time.monotonic() - began)
        if STOP.signal is not None or left_s < SHORTEST_S:
            return PREEMPTED
        screen.print_text("" if number == 1 else "\n")
        screen.fact(config.task.replace("_", " "), f"{number} of {len(steps)}: {config.run}")
        code = launcher.launch_training(
            launch_config, config if left_s == inf else replace(config, max_time=f"{left_s:.0f}")
        )
        if code or launch_config.dry_run:
            return code
    STOP.must_save = False
    return 0 if STOP.signal is None else PREEMPTED


def member_keys(member: Member, launch_config: LaunchRecipe) -> dict[str, Any]:
    """The keys in which a training differs from the others: seed or fold, directory, and its name for trackers."""
    folder = Path(launch_config.run).resolve().name
    return {
        member.kind: member.number,
        "run": str(member.path),
        "tracking.name": f"{launch_config.tracking.name or folder} {member.name}",
    }


def plan_members(launch_config: LaunchRecipe) -> list[Member]:
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


def finish_runs(members: Sequence[Member], launch_config: LaunchRecipe) -> None:
    """Write the summary and the report of all runs, and print their spread. Raises ``StorageError``."""
    folder, kind, values = Path(launch_config.run), members[0].kind, collect(members)
    if kind == "fold" and launch_config.task != LANGUAGE_MODEL:
        values["out_of_fold"] = score_all_rows(folder, members, values["labels"])
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
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
