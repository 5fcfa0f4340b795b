# SPDX-License-Identifier: Apache-2.0
"""Self-training in one command: a model labels the rows without labels, and the next one learns from both.

::

    RUN/round-0/                       a run of its own, from labelled rows alone
    RUN/round-0/soft_labels.arrow      what its best weights make of the unlabelled rows
    RUN/round-1/ …                     the same, with those labels; as many as self_training.rounds says
    RUN/                               the last training: the run that was asked for

Each training is one that could have been started by hand, and so is each labelling. What is finished is not done again,
and a training that was interrupted goes on, so the same command ends where it would have ended undisturbed.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.data.checks import check_dataset
from harness.data.soft_labels import read_soft_labels
from harness.launch import launcher
from harness.launch.launcher import PROG
from harness.launch.sequence import TimeLeft, as_words
from harness.launch.stop import INTERRUPTED, STOP
from harness.ranks import devices
from harness.ranks.stopping import EXIT_CODE
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.records import LAUNCH_ID
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import MANIFEST

LABELS = "soft_labels.arrow"
ALONE = {"order.unlabelled_batch": 0, "self_training.weight": 1.0, "self_training.any_teacher": False}
"""Keys of a training from labelled rows alone."""
ONCE = {"self_training.rounds": 0, "self_training.first": {}}


def train(options: list[str], training: list[str], recipe: RunConfig) -> int:
    """Train round after round; the exit code of the first command that did not end well, or of the last training."""
    check(recipe)
    screen = Screen(quiet=recipe.quiet)
    left, labels = TimeLeft(recipe.max_time), None
    for number in range(recipe.self_training.rounds + 1):
        last = number == recipe.self_training.rounds
        run = Path(recipe.run) if last else Path(recipe.run, f"round-{number}")
        others: dict[str, Any] = {"run": str(run), **ONCE}
        if labels is None:
            others |= {**ALONE, **recipe.self_training.first}
        else:
            others["self_training.labels"] = str(labels)
        STOP.between()
        if STOP.heard or (limit := left.words()) is None:
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


def check(recipe: RunConfig) -> None:
    """Refuse what rounds cannot do, before the first of them begins. Raises ``ConfigError`` or ``DataError``."""
    if recipe.task == LANGUAGE_MODEL:
        raise ConfigError("self_training.rounds: a language model has no labels; set it to 0 for this task")
    if not recipe.order.unlabelled_batch:
        raise ConfigError(
            "self_training.rounds: no round learns from unlabelled rows; set order.unlabelled_batch to those of a step"
        )
    manifest = check_dataset(recipe.data, hashes=False)
    if not manifest.splits.get(UNLABELLED):
        raise DataError(
            f"{Path(recipe.data, MANIFEST)}: has no unlabelled rows for self_training.rounds; build it with "
            "source.unlabelled_path, or set the key to 0"
        )
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
    values: dict[str, Any] = {
        "run": str(run),
        "data": recipe.data,
        "output": str(output),
        "device": recipe.device,
    }
    values |= {"timeout_s": recipe.timeout_s, "quiet": recipe.quiet}
    words = [*as_words(values), *([] if recipe.threads is None else [f"--threads={recipe.threads}"])]
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
