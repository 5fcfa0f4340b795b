# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing COMMAND``: the commands of ``padless`` that need no torch."""

from __future__ import annotations

import sys

from preprocessing.base.signals import COMMAND

if __name__ == "__main__":  # before the other imports: a signal may come that early
    COMMAND.listen()

from preprocessing.base import cli
from preprocessing.base.cli import Command, dispatch

COMMANDS = (
    Command(
        "prepare",
        "FILE …",
        "Build a dataset directory from labelled texts.",
        "preprocessing.job.build:prepare_dataset",
        "preprocessing.config:PreprocessConfig",
        first=("source.path", "output", "source.text_column", "source.label_column", "text.max_tokens"),
        example="padless prepare reviews.csv -o data/mine",
    ),
    Command(
        "inspect",
        "DATA",
        "What is in a dataset, and how good it is.",
        "preprocessing.dataset.inspect:main",
        "preprocessing.dataset.inspect:InspectConfig",
    ),
)


def main(argv: list[str]) -> int:
    """Run one command. Raises ``ConfigError`` for an unknown one, naming the nearest."""
    return dispatch(COMMANDS, argv)


if __name__ == "__main__":  # worker processes import this module too, under another name
    sys.exit(cli.run(main))
