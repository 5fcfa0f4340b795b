# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing run | check | inspect | bench | fetch-nltk``: from texts to a dataset directory."""

from __future__ import annotations

import sys

from preprocessing.base import cli
from preprocessing.base.commands import Command, Words, dispatch

PROG = "python -m preprocessing"
NOTE = "exit codes: 0 done, 1 the machine failed, 2 the configuration or the command is wrong, 3 the data is wrong"
DATASET = Words(spelling="D", noun="dataset", takes="one dataset directory")
FILES = Words(spelling="[FILE ...]", noun="file", takes="files with labelled texts", least=0, most=None)
COMMANDS = (
    Command(
        name="run",
        summary="Build a dataset directory: --config FILE --output D [--any.key value].",
        main="preprocessing.job.entry:run",
        config="preprocessing.config:PreprocessConfig",
        words=FILES,
    ),
    Command(
        name="check",
        summary="Verify every byte of a dataset.",
        main="preprocessing.job.entry:check",
        config="preprocessing.job.entry:CheckConfig",
        words=DATASET,
    ),
    Command(
        name="inspect",
        summary="What is in a dataset, and how good it is: [--json] [--plot FILE.png].",
        main="preprocessing.dataset.inspect:main",
        config="preprocessing.dataset.inspect:InspectConfig",
        words=DATASET,
    ),
    Command(
        name="bench",
        summary="Documents per second, beside what people use today: [--json] [--source.path X].",
        main="preprocessing.job.bench:main",
        config="preprocessing.job.bench:BenchConfig",
        shared="preprocessing.config:PreprocessConfig",
        shared_defaults={"output": "unused"},
    ),
    Command(
        name="fetch-nltk",
        summary="Download the NLTK data that some options need: [--dir D].",
        main="preprocessing.text.fetch:main",
        config="preprocessing.text.fetch:FetchConfig",
    ),
)


def main(argv: list[str]) -> int:
    """Dispatch one command. Raises ``ConfigError`` for an unknown one, naming the nearest."""
    return dispatch(COMMANDS, argv, PROG, NOTE)


if __name__ == "__main__":  # worker processes import this module too, under another name
    sys.exit(cli.run(main))
