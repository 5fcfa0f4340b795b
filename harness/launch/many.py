# SPDX-License-Identifier: Apache-2.0
"""Many trainings in one command: one for each seed, or one for each fold of the dataset, and what they say together.

::

    RUN/seed-0/ …           a run of its own, as ``--seed 0 --run RUN/seed-0`` makes it; with rounds, RUN/seed-0/round-0
    RUN/seeds.json          figures of each run, mean, standard deviation, interval of the mean
    RUN/report.html         the same to look at

and ``RUN/fold-0/ …``, ``RUN/folds.json``, ``RUN/out-of-fold.parquet`` where folds are held out. What is finished is not
done again, and a training that was interrupted goes on, so the same command ends where it would have ended undisturbed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.data.views import check_folds
from harness.launch import launcher, rounds
from harness.launch.asked import ALL, LaunchRecipe, seeds_of
from harness.launch.launcher import PROG
from harness.launch.sequence import TimeLeft, as_words, typed, without
from harness.launch.stop import STOP
from harness.ranks.stopping import EXIT_CODE
from harness.report import many
from harness.report.page import write_report_quietly
from harness.rundir import layout, results
from harness.rundir.layout import REPORT, Kind, Member, member
from harness.scores.figures import FIGURES
from harness.scores.intervals import METHOD_OVER_RUNS
from harness.scores.tables import describe_spread, spread_table
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.dataset.shards import read_manifest


def train(options: list[str], training: list[str], asked: LaunchRecipe) -> int:
    """Train run after run; the exit code of the first that did not end well, else 0 when their figures are written.

    ``options`` are accelerate's, ``training`` the keys that ``asked`` was made of. Raises ``ConfigError`` or
    ``DataError`` for what cannot be done, before the first of them begins.
    """
    check_words(training, asked)
    folder = Path(asked.run)
    runs = planned(asked)
    layout.check_many(folder, runs[0].kind)
    words = without(training, LaunchRecipe, {"seeds", "folds"})
    left, screen = TimeLeft(asked.max_time), Screen(quiet=asked.quiet)
    for place, one in enumerate(runs, 1):
        STOP.between()
        if STOP.heard or (limit := left.words()) is None:
            return EXIT_CODE
        screen.say("" if place == 1 else "\n")
        screen.fact(one.kind, f"{one.number}, {place} of {len(runs)}: {one.path}")
        code = train_one(options, [*words, *as_words(keys_of(one, asked) | limit)])
        if code or asked.dry_run:
            return code
    STOP.between()
    if STOP.heard:
        return EXIT_CODE
    if not launcher.accelerate_arguments(options, []).machine_rank:
        conclude(folder, runs, asked, screen)
    return 0


def train_one(options: list[str], words: list[str]) -> int:
    """One training, or the rounds of one; its exit code."""
    recipe = cli.parse(RunConfig, words, prog=PROG)
    return (rounds if recipe.self_training.rounds else launcher).train(options, words, recipe)


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
    if wanted != ALL and int(wanted) != manifest.folds:
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
        values["out_of_fold"] = many.over_all_rows(folder, runs, values["labels"], keep=True)
        if (linear := many.linear_on_folds(runs, values)) is not None:
            values["linear"] = linear
    results.write_summary(folder, kind, values)
    write_report_quietly(folder)
    show(values, kind, screen)
    named = [str(results.summary_path(folder, kind)), REPORT]
    named += [layout.OUT_OF_FOLD] if "out_of_fold" in values else []
    screen.say(f"written to {' and '.join([', '.join(named[:-1]), named[-1]])}", "good")
    sys.stdout.flush()


def show(values: dict[str, Any], kind: Kind, screen: Screen) -> None:
    """Print the figures of each run and of all: of the test split for seeds, of the held-out rows for folds."""
    wanted = (VALIDATION, TEST) if kind == "fold" else (TEST, VALIDATION)
    splits = [split for split in wanted if split in values["splits"]]
    splits = splits if kind == "fold" else splits[:1]
    names = [one["run"] for one in values["runs"]]
    for split in splits:
        of_runs = [one["splits"][split] for one in values["runs"]]
        rows = of_runs[0]["rows"]
        where = (
            "each on the fold that it held out" if (kind, split) == ("fold", VALIDATION) else f"{split}, {rows:,} rows"
        )
        screen.say(f"\n{len(names)} {kind}s: {where}", "head")
        screen.table(spread_table(names, of_runs, screen.width))
        first = next(iter(values["splits"][split]))
        screen.say(describe_spread(FIGURES[first].title, values["splits"][split][first]))
    screen.say(
        f"The interval of the mean is {METHOD_OVER_RUNS}: other {kind}s would move it so; that of a run is about "
        "its rows: other rows would."
    )
    if (linear := values.get("linear")) is not None:
        apart = describe_spread("the runs' less its own:", linear["difference"])
        screen.say(
            f"linear model on the same folds: {describe_spread('accuracy', linear['spread']['accuracy'])}; {apart}, "
            f"ahead in {linear['ahead']} of {len(names)}"
        )
    if (pooled := values.get("out_of_fold")) is not None:
        low, high = pooled["intervals"]["accuracy"]
        figures = ", ".join(
            f"{FIGURES[name].title} {pooled[name]:.4f}"
            for name in ("f1", "roc_auc", "log_loss")
            if pooled[name] is not None
        )
        screen.say(
            f"all {pooled['rows']:,} rows, each by the run that did not learn from it: accuracy "
            f"{pooled['accuracy']:.4f} ({low:.4f} to {high:.4f} over rows), {figures}"
        )
