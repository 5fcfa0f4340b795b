# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing COMMAND``: the commands of ``padless`` that need no torch."""

from __future__ import annotations

import sys

from preprocessing.base import processes

if __name__ == "__main__":  # before the other imports: a signal may come that early
    processes.listen()

from preprocessing.base import cli
from preprocessing.base.cli import Command, dispatch

PROG = "padless"
NOTE = (
    "exit codes: 0 done, 1 the machine failed, 2 the configuration or the command is wrong, 3 the data is wrong, "
    "4 something cannot be written, 143 told to stop"
)
COMMANDS = (
    Command(
        "prepare",
        "Build a dataset directory from labelled texts.",
        elsewhere="preprocess, preprocessing, build, encode",
        main="preprocessing.job.pipeline:run",
        config="preprocessing.config:PreprocessConfig",
        words="FILE …",
        first=("source.path", "output", "source.text_column", "source.label_column", "text.max_tokens"),
        example="padless prepare reviews.csv -o data/mine",
    ),
    Command(
        "inspect",
        "What is in a dataset, and how good it is.",
        elsewhere="show, stats, info",
        main="preprocessing.dataset.inspect:main",
        config="preprocessing.dataset.inspect:InspectConfig",
        words="DATA",
        heading="datasets",
    ),
    Command(
        "check",
        "Verify every byte of a dataset.",
        elsewhere="verify, validate",
        main="preprocessing.job.pipeline:check",
        config="preprocessing.job.pipeline:CheckConfig",
        words="DATA",
    ),
    Command(
        "vectors",
        "Learn word vectors of a dataset's own texts.",
        main="preprocessing.dataset.vectors:main",
        config="preprocessing.dataset.vectors:OfDataset",
        words="DATA",
    ),
    Command(
        "fetch-nltk",
        "Download the NLTK data that some options need.",
        elsewhere="download",
        main="preprocessing.text.resources:fetch",
        config="preprocessing.text.resources:FetchConfig",
    ),
)


def main(argv: list[str]) -> int:
    """Run one command; ``run`` is ``prepare`` here. Raises ``ConfigError`` for an unknown one, naming the nearest."""
    words = ["prepare", *argv[1:]] if argv[:1] == ["run"] else argv
    return dispatch(COMMANDS, words, PROG, NOTE)


if __name__ == "__main__":  # worker processes import this module too, under another name
    sys.exit(cli.run(main))
