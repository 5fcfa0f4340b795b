# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing COMMAND``: the commands of ``padless`` that need no torch."""

from __future__ import annotations

import sys

from preprocessing.base import processes

if __name__ == "__main__":  # before the other imports: a signal may come that early
    processes.listen()

from preprocessing.base import cli
from preprocessing.base.cli import Command, dispatch

COMMANDS = (
    Command(
        "prepare",
        "FILE …",
        "Build a dataset directory from labelled texts.",
        "preprocessing.job.build:run",
        "preprocessing.config:PreprocessConfig",
        elsewhere="preprocess, preprocessing, build, encode",
        first=("source.path", "output", "source.text_column", "source.label_column", "text.max_tokens"),
        example="padless prepare reviews.csv -o data/mine",
    ),
    Command(
        "inspect",
        "DATA",
        "What is in a dataset, and how good it is.",
        "preprocessing.dataset.inspect:main",
        "preprocessing.dataset.inspect:InspectConfig",
        elsewhere="info, show, describe, stats",
        heading="datasets",
    ),
    Command(
        "check",
        "DATA",
        "Verify every byte of a dataset.",
        "preprocessing.dataset.inspect:check",
        "preprocessing.dataset.inspect:CheckConfig",
        elsewhere="verify, validate",
    ),
)


def main(argv: list[str]) -> int:
    """Run one command. Raises ``ConfigError`` for an unknown one, naming the nearest."""
    return dispatch(COMMANDS, argv)


if __name__ == "__main__":  # worker processes import this module too, under another name
    sys.exit(cli.run(main))
