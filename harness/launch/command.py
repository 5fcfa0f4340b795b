# SPDX-License-Identifier: Apache-2.0
"""``python -m harness launch``: one training, the rounds of a self-training, or many of either."""

from __future__ import annotations

from harness.config import FIRST_KEYS
from harness.launch import many, rounds
from harness.launch.asked import LaunchRecipe, check_blanks
from harness.launch.launcher import PROG, accelerate_parser, split_arguments, train
from harness.ranks import devices
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.help_page import Page

PAGE = Page(
    usage=f"{PROG} [options of accelerate launch] [--key value …]",
    about="Train, with checks before any process starts and with true exit codes; --seeds 0,1,2 or --folds all trains "
    "once for each, with their spread.",
    first=FIRST_KEYS,
    example=f"{PROG} --num_processes 2 --data data/mine --run runs/mine",
    topics={"accelerate": "the options of accelerate launch, which come first"},
)


def main(argv: list[str]) -> int:
    """Train; returns the exit code."""
    if ("help", ["--help", "accelerate"]) in cli.apart(argv, LaunchRecipe)[1]:
        accelerate_parser().print_help()
        return 0
    options, training = split_arguments(argv or ["--help"], LaunchRecipe)
    check_blanks(training)
    asked = cli.parse(LaunchRecipe, training, prog=PROG, page=PAGE, in_front=devices.LAUNCHER_OPTIONS)
    if asked.seeds is not None or asked.folds is not None:
        return many.train(options, training, asked)
    recipe = asked.recipe
    if recipe.self_training.rounds:
        return rounds.train(options, training, recipe)
    if not options:
        resolve(recipe)  # a missing dataset is refused before accelerate imports torch
    return train(options, training, recipe)
