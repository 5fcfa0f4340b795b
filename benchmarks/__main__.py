# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks NAME [keys]``: padless and common alternatives, measured on this machine."""

from __future__ import annotations

import sys

from padless.core import cli
from padless.core.cli import Command, dispatch

BENCHMARKS = (
    ("text", "TextConfig", "Tokenizing texts, and common alternatives."),
    ("loader", "LoaderConfig", "Loading batches, and PyTorch's loader."),
    ("train", "TrainBenchmark", "A training step, and plain PyTorch loops."),
    ("predict", "PredictBenchmark", "Predictions of raw texts, and common alternatives."),
    ("corpora", "CorporaConfig", "Recipes by the number of labels, and a TF-IDF baseline."),
    ("speedrun", "SpeedrunConfig", "Seconds to an accuracy, and a TF-IDF baseline."),
)
COMMANDS = tuple(
    Command(
        name,
        {"corpora": "FILE …", "speedrun": "FILE"}.get(name, ""),
        summary,
        f"benchmarks.{name}:main",
        f"benchmarks.{name}:{config}",
        ("json", "rounds", "source.path", "source.text_column") if name == "text" else (),
    )
    for name, config, summary in BENCHMARKS
)


def main(argv: list[str]) -> int:
    """Run a benchmark."""
    return dispatch(COMMANDS, argv, "python -m benchmarks")


if __name__ == "__main__":  # subprocesses of a benchmark import this module too, under another name
    sys.exit(cli.run(main))
