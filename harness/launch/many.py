# SPDX-License-Identifier: Apache-2.0
"""``padless train``: one training, one for each seed, or one for each fold.

::

    RUN/seed-0/ …                      a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it
    RUN/seeds.json                     figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html                    the same as a page

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. Each training is one
that could have been started by hand. The same command resumes after an interruption: finished trainings are skipped, an
interrupted one goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from harness.config import LANGUAGE_MODEL, NOTHING, LaunchRecipe, RunConfig, seeds_of
from harness.data.views import check_folds
from harness.launch import launcher
from harness.launch.launcher import PROG
from harness.launch.options import accelerate_arguments
from harness.launch.stop import STOP
from harness.ranks.stopping import EXIT_CODE
from harness.report import many
from harness.report.page import write_report_quietly
from harness.rundir import layout, results
from harness.rundir.layout import REPORT, Member, member
from harness.scores.figures import FIGURES
from harness.scores.tables import describe_spread
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.cli import as_words
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import Screen
from preprocessing.dataset.views import read_data

SHORTEST_S = 1.0
"""No training begins with less time than this."""


def main(asked: LaunchRecipe, options: list[str], training: list[str]) -> int:
    """Train; returns the exit code. ``options`` are accelerate's, ``training`` the keys that ``asked`` was made of."""
    check_named(asked)
    if "run" not in keys_in(training):
        Screen(quiet=asked.quiet).say(f"The run is {asked.run}; -o names another directory.")
    if asked.seeds is not None or asked.folds is not None:
        return train_many(options, training, asked)
    return train_one(options, training, asked.recipe)


def check_named(asked: RunConfig) -> None:
    """Raise ``ConfigError`` if no dataset is named."""
    if asked.data == NOTHING:
        raise ConfigError("--data is missing: name a dataset directory, as in padless train data/mine")


def train_one(options: list[str], words: list[str], recipe: RunConfig) -> int:
    """One training; its exit code."""
    if not options:
        resolve(recipe)  # a missing dataset is refused before accelerate imports torch
    return launcher.train(options, words, recipe)


def in_turn(options: list[str], words: list[str], asked: LaunchRecipe, runs: Sequence[Member]) -> int:
    """Train one after the other, all together within ``max_time``; the exit code of the first that failed.

    ``words``: the keys that all share; a dry run does only the first run.
    """
    began, screen = time.monotonic(), Screen(quiet=asked.quiet)
    for place, run in enumerate(runs, 1):
        STOP.between()
        left = (asked.max_time_s or inf) - (time.monotonic() - began)
        if STOP.heard or left < SHORTEST_S:
            return EXIT_CODE
        limit = {"max_time": f"{left:.0f}"} if left < inf else {}
        screen.say("" if place == 1 else "\n")
        screen.fact(f"{run.kind} {run.number}", f"{place} of {len(runs)}: {run.path}")
        own = [*words, *as_words((keys_of(run, asked) | limit).items())]
        code = train_one(options, own, cli.parse(RunConfig, own, prog=PROG))
        if code or asked.dry_run:
            return code
    STOP.between()
    return EXIT_CODE if STOP.heard else 0


def keys_in(words: Sequence[str]) -> set[str]:
    """The keys that a command line of a training gives."""
    return {key for key, _ in cli.apart(words, LaunchRecipe)[1]}


def train_many(options: list[str], training: list[str], asked: LaunchRecipe) -> int:
    """Train run after run; the exit code of the first that failed, else 0 when the summary is written.

    ``options`` are accelerate's, ``training`` the keys that ``asked`` was made of. Raises ``ConfigError`` or
    ``DataError`` before the first one begins.
    """
    given = cli.apart(training, LaunchRecipe)[1]
    key, value = ("fold", asked.folds) if asked.seeds is None else ("seed", asked.seeds)
    words = as_words(one for one in given if one[0] != f"{key}s")
    if len(words) == len(given):
        raise ConfigError(f"{key}s: belongs on the command line, --{key}s {value}; take it out of the file")
    if key in dict(given):
        raise ConfigError(f"--{key}: --{key}s {value} gives them all; leave --{key} out")
    runs = planned(asked)
    code = in_turn(options, words, asked, runs)
    if not code and not asked.dry_run and not accelerate_arguments(options, []).machine_rank:
        conclude(runs, asked)
    return code


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
        runs = [member(asked.run, "seed", seed) for seed in seeds_of(asked.seeds)]
    elif asked.folds is not None:
        manifest = read_data(asked.data)
        check_folds(manifest, asked.data, "folds")
        if asked.folds not in ("all", manifest.folds):
            raise ConfigError(
                f"folds: {asked.folds}, but {asked.data} was cut into {manifest.folds}; give --folds all, or build the "
                f"dataset again with --splits.folds {asked.folds}"
            )
        runs = [member(asked.run, "fold", fold) for fold in range(manifest.folds)]
    else:
        return []
    layout.check_many(asked.run, runs[0].kind)
    return runs


def first(asked: LaunchRecipe) -> tuple[RunConfig, list[Member]]:
    """The first training, for a preview, and all trainings of the command, empty for a single one.

    Raises ``ConfigError`` or ``DataError`` as ``train`` does.
    """
    check_named(asked)
    runs = planned(asked)
    own: dict[str, Any] = {runs[0].kind: runs[0].number, "run": str(runs[0].path)} if runs else {}
    return replace(asked.recipe, **own), runs


def conclude(runs: Sequence[Member], asked: LaunchRecipe) -> None:
    """Write the summary and the report of all runs, and print their spread. Raises ``StorageError``."""
    folder, kind, values = Path(asked.run), runs[0].kind, many.collect(runs)
    if kind == "fold" and asked.task != LANGUAGE_MODEL:
        values["out_of_fold"] = many.over_all_rows(folder, runs, values["labels"])
        if (linear := many.linear_on_folds(runs, values)) is not None:
            values["linear"] = linear
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
    screen = Screen(quiet=asked.quiet)
    for split, figures in values["splits"].items():
        name = next(iter(figures))
        screen.say(f"{split}: {describe_spread(FIGURES[name].title, figures[name])}")
    if (pooled := values.get("out_of_fold")) is not None:
        low, high = pooled["intervals"]["accuracy"]
        of_rows = f"accuracy {pooled['accuracy']:.4f} ({low:.4f} to {high:.4f} over rows)"
        screen.say(f"all {pooled['rows']:,} rows, each by the run that did not learn from it: {of_rows}")
    screen.say(f"written to {results.summary_path(folder, kind)} and {REPORT}", "good")
    sys.stdout.flush()
