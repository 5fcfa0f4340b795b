# SPDX-License-Identifier: Apache-2.0
"""``python -m harness launch``: one training, one for each seed, one for each fold, or the rounds of a self-training.

::

    RUN/seed-0/ …                      a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it
    RUN/seeds.json                     figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html                    the same to look at

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. A self-training has::

    RUN/round-0/                       a run of its own, from labelled rows alone
    RUN/round-0/soft_labels.arrow      what its best weights make of the unlabelled rows
    RUN/round-1/ …                     the same, with those labels; as many as self_training.rounds says
    RUN/                               the last training: the requested run

in RUN, or in each seed's and fold's directory. Each training is one that could have been started by hand. What is
finished is not done again, and a training that was interrupted goes on, so the same command ends where it would have
ended undisturbed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from harness.config import EVERY_FOLD, FIRST_KEYS, LANGUAGE_MODEL, LaunchRecipe, RunConfig, seconds, seeds_of
from harness.data.checks import check_dataset, check_stream
from harness.data.soft_labels import read_soft_labels
from harness.data.views import check_folds
from harness.launch import launcher
from harness.launch.launcher import PROG
from harness.launch.stop import INTERRUPTED, STOP
from harness.ranks import devices
from harness.ranks.stopping import EXIT_CODE
from harness.report import many
from harness.report.page import write_report_quietly
from harness.rundir import layout, results
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.layout import REPORT, Kind, Member, member
from harness.rundir.records import LAUNCH_ID
from harness.scores.figures import FIGURES
from harness.scores.tables import describe_spread
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import Page
from preprocessing.base.split_names import VALIDATION
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import read_manifest

SHORTEST_S = 1.0
"""No training begins with less time than this."""
LABELS = "soft_labels.arrow"
ALONE = {"order.unlabelled_batch": 0, "self_training.weight": 1.0, "self_training.any_teacher": False}
"""Keys of a training from labelled rows alone."""
ONCE = {"self_training.rounds": 0, "self_training.first": {}}
PAGE = Page(
    usage=f"{PROG} [DATA] [options of accelerate launch] [--key value …]",
    about="Train, with checks before any process starts and with true exit codes; --seeds 0,1,2 or --folds all trains "
    "once for each, with their spread.",
    first=FIRST_KEYS,
    example=f"{PROG} --num_processes 2 --data data/mine --run runs/mine",
)


def main(argv: list[str]) -> int:
    """Train; returns the exit code."""
    options, training = launcher.split_arguments(argv or ["--help"], LaunchRecipe)
    asked = cli.parse(LaunchRecipe, training, prog=PROG, page=PAGE, in_front=devices.LAUNCHER_OPTIONS)
    if asked.seeds is not None or asked.folds is not None:
        return train_many(options, training, asked)
    return train_one(options, training, asked.recipe)


def train_one(options: list[str], words: list[str], recipe: RunConfig) -> int:
    """One training, or the rounds of one; its exit code."""
    if recipe.self_training.rounds:
        return train_rounds(options, words, recipe)
    if not options:
        resolve(recipe)  # a missing dataset is refused before accelerate imports torch
    return launcher.train(options, words, recipe)


def time_for_another(began: float, max_time: str | None) -> dict[str, str] | None:
    """The key with the time that is left for the next training, if there is a limit; None if it is not to begin.

    ``max_time`` of a command is that of all its trainings together, since ``began`` (monotonic seconds).
    """
    STOP.between()
    limit = seconds(max_time)
    left = limit - (time.monotonic() - began) if limit else SHORTEST_S
    if STOP.heard or left < SHORTEST_S:
        return None
    return {"max_time": f"{left:.0f}"} if limit else {}


def train_many(options: list[str], training: list[str], asked: LaunchRecipe) -> int:
    """Train run after run; the exit code of the first that did not end well, else 0 when their figures are written.

    ``options`` are accelerate's, ``training`` the keys that ``asked`` was made of. Raises ``ConfigError`` or
    ``DataError`` for what cannot be done, before the first of them begins.
    """
    check_words(training, asked)
    folder = Path(asked.run)
    runs = planned(asked)
    layout.check_many(folder, runs[0].kind)
    words = without(training, LaunchRecipe, {"seeds", "folds"})
    began, screen = time.monotonic(), Screen(quiet=asked.quiet)
    for place, one in enumerate(runs, 1):
        if (limit := time_for_another(began, asked.max_time)) is None:
            return EXIT_CODE
        screen.say("" if place == 1 else "\n")
        screen.fact(one.kind, f"{one.number}, {place} of {len(runs)}: {one.path}")
        own = [*words, *as_words(keys_of(one, asked) | limit)]
        code = train_one(options, own, cli.parse(RunConfig, own, prog=PROG))
        if code or asked.dry_run:
            return code
    STOP.between()
    if STOP.heard:
        return EXIT_CODE
    if not launcher.accelerate_arguments(options, []).machine_rank:
        conclude(folder, runs, asked, screen)
    return 0


def as_words(values: dict[str, Any]) -> list[str]:
    """Keys and values as a command line has them."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def typed(words: list[str], config_class: type) -> list[tuple[str, list[str]]]:
    """Each key of a command line for ``config_class`` and the words that give it, in their order."""
    return cli.apart(words, config_class)[1]


def without(words: list[str], config_class: type, keys: set[str]) -> list[str]:
    """A command line without some of its keys."""
    return list(chain(*(option for key, option in typed(words, config_class) if key not in keys)))


def keys_of(run: Member, asked: LaunchRecipe) -> dict[str, Any]:
    """What sets a training apart from the others: seed or fold, directory, and its name for trackers."""
    folder = Path(asked.run).resolve().name
    return {
        run.kind: run.number,
        "run": str(run.path),
        "tracking.group": asked.tracking.group or folder,
        "tracking.name": f"{asked.tracking.name or folder} {run.name}",
    }


def check_words(training: Sequence[str], asked: LaunchRecipe) -> None:
    """Raise ``ConfigError`` for a single seed or fold beside many, and for many that a file asks for."""
    typed_keys = {key for key, _ in typed(list(training), LaunchRecipe)}
    for key, value in (("seed", asked.seeds), ("fold", asked.folds)):
        if value is None:
            continue
        if f"{key}s" not in typed_keys:
            raise ConfigError(f"{key}s: belongs on the command line, --{key}s {value}; take it out of the file")
        if key in typed_keys:
            raise ConfigError(f"--{key}: --{key}s {value} names every one already; leave --{key} out")


def planned(asked: LaunchRecipe) -> list[Member]:
    """The trainings of a command, in their order. Raises ``ConfigError`` or ``DataError``."""
    if asked.seeds is not None:
        return [member(asked.run, "seed", seed) for seed in seeds_of(asked.seeds)]
    assert asked.folds is not None
    manifest = read_manifest(asked.data)
    check_folds(manifest, asked.data, "folds")
    wanted = asked.folds.strip()
    if wanted != EVERY_FOLD and int(wanted) != manifest.folds:
        raise ConfigError(
            f"folds: {wanted}, but {asked.data} was cut into {manifest.folds}; give --folds all, or build the dataset "
            f"again with --splits.folds {wanted}"
        )
    return [member(asked.run, "fold", fold) for fold in range(manifest.folds)]


def first(asked: LaunchRecipe) -> tuple[RunConfig, list[Member]]:
    """The training that a preview is of, and all that the command would do, none where it is one.

    Raises ``ConfigError`` or ``DataError`` as ``train`` does.
    """
    if asked.seeds is None and asked.folds is None:
        return asked.recipe, []
    runs = planned(asked)
    layout.check_many(asked.run, runs[0].kind)
    own: dict[str, Any] = {runs[0].kind: runs[0].number, "run": str(runs[0].path)}
    return replace(asked.recipe, **own), runs


def conclude(folder: Path, runs: Sequence[Member], asked: LaunchRecipe, screen: Screen) -> None:
    """Write what the runs say together, and say it. Raises ``StorageError``."""
    kind: Kind = runs[0].kind
    values = many.collect(runs)
    if kind == "fold" and asked.task != LANGUAGE_MODEL:
        values["out_of_fold"] = many.over_all_rows(folder, runs, values["labels"])
        if (linear := many.linear_on_folds(runs, values)) is not None:
            values["linear"] = linear
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
    show(values, kind, screen)
    screen.say(f"written to {results.summary_path(folder, kind)} and {REPORT}", "good")
    sys.stdout.flush()


def show(values: dict[str, Any], kind: Kind, screen: Screen) -> None:
    """Print the spread of each split over the runs; the page has the figures of each run."""
    for split, figures in values["splits"].items():
        rows = "the fold that each held out" if (kind, split) == ("fold", VALIDATION) else split
        name = next(iter(figures))
        screen.say(f"{rows}: {describe_spread(FIGURES[name].title, figures[name])}")
    if (linear := values.get("linear")) is not None:
        apart = describe_spread("the runs' less its own:", linear["difference"])
        own = describe_spread("accuracy", linear["spread"]["accuracy"])
        screen.say(f"linear model on the same folds: {own}; {apart}")
    if (pooled := values.get("out_of_fold")) is not None:
        low, high = pooled["intervals"]["accuracy"]
        of_rows = f"accuracy {pooled['accuracy']:.4f} ({low:.4f} to {high:.4f} over rows)"
        screen.say(f"all {pooled['rows']:,} rows, each by the run that did not learn from it: {of_rows}")


def train_rounds(options: list[str], training: list[str], recipe: RunConfig) -> int:
    """Train round after round; the exit code of the first command that did not end well, or of the last training."""
    check_rounds(recipe)
    screen = Screen(quiet=recipe.quiet)
    began, labels = time.monotonic(), None
    for number in range(recipe.self_training.rounds + 1):
        last = number == recipe.self_training.rounds
        run = Path(recipe.run) if last else Path(recipe.run, f"round-{number}")
        others: dict[str, Any] = {"run": str(run), **ONCE}
        if labels is None:
            others |= {**ALONE, **recipe.self_training.first}
        else:
            others["self_training.labels"] = str(labels)
        if (limit := time_for_another(began, recipe.max_time)) is None:
            return EXIT_CODE
        others |= limit
        screen.say("" if number == 0 else "\n")
        screen.fact("round", f"{number + 1} of {recipe.self_training.rounds + 1}: {run}")
        words = [*training, *as_words(others)]
        code = launcher.train(options, words, cli.parse(RunConfig, words, prog=PROG))
        if code or last or recipe.dry_run:
            return code
        labels = run / LABELS
        if not is_of(labels, run):
            code = label(options, recipe, run, labels)
            if code:
                return code
    raise AssertionError("the last round returns")


def check_rounds(recipe: RunConfig) -> None:
    """Refuse what rounds cannot do, before the first of them begins. Raises ``ConfigError`` or ``DataError``."""
    if recipe.task == LANGUAGE_MODEL:
        raise ConfigError("self_training.rounds: a language model has no labels; set it to 0 for this task")
    if not recipe.order.unlabelled_batch:
        raise ConfigError(
            "self_training.rounds: no round learns from unlabelled rows; set order.unlabelled_batch to those of a step"
        )
    check_stream(recipe, check_dataset(recipe.data, hashes=False))
    words = as_words({**ALONE, **ONCE, **recipe.self_training.first})
    cli.parse(RunConfig, words, prog=PROG, in_front=devices.LAUNCHER_OPTIONS)


def is_of(path: Path, run: Path) -> bool:
    """Whether there is a whole file of soft labels there that the run's best weights gave."""
    try:
        return read_soft_labels(path).teacher.weights_sha256 == read_info(bundle_directory(run)).weights_sha256
    except DataError:
        return False


def label(options: list[str], recipe: RunConfig, run: Path, output: Path) -> int:
    """Score the unlabelled rows; the exit code."""
    shared = {key: getattr(recipe, key) for key in ("data", "device", "timeout_s", "quiet", "threads")}
    words = as_words({"run": str(run), "output": str(output), **shared})
    arguments = launcher.accelerate_arguments(options, words, "harness.label")
    os.environ[LAUNCH_ID] = uuid.uuid4().hex
    with STOP.ranks(begun=lambda: False, conclude=lambda: EXIT_CODE):
        failure = launcher.start(arguments)
    if failure is None:
        return 0
    if failure.signal is not None:
        return INTERRUPTED if STOP.now else EXIT_CODE
    if not failure.said:
        Screen(errors=True).say(f"error: {failure.sentence}; what it said is above")
    return failure.code
