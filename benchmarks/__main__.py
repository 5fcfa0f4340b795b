# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks NAME [keys]``: measured here, beside what people use today."""

from __future__ import annotations

import sys

from preprocessing.base import cli
from preprocessing.base.cli import NO_WORDS, Command, Words, dispatch

FILES = Words(spelling="FILE [FILE …]", takes="one labelled file or several", most=None)
BENCHMARKS = (
    ("text", "TextConfig", "Texts to tokens, beside what people use today."),
    ("loader", "LoaderConfig", "Loading batches, beside loaders of today."),
    ("recurrence", "RecurrenceConfig", "One LSTM layer, forward and backward, on each path."),
    ("train", "TrainConfig", "A training step, beside loops of today."),
    ("pretrain", "PretrainConfig", "A step of pretraining, beside a classifier's."),
    ("predict", "PredictConfig", "Predictions of raw texts, beside loops of today."),
    ("limits", "LimitsConfig", "How far rows, classes, texts, … go, and what then."),
    ("corpora", "CorporaConfig", "Recipes by the number of labels, and a linear model."),
)
FIRST = {
    "text": ("source.path", "texts", "rounds", "text.tokenizer", "json"),
    "train": ("data", "batch", "steps", "rounds", "precision", "json"),
}
"""The keys on the first screen of the help of those that have many."""
COMMANDS = tuple(
    Command(
        name=name,
        summary=summary,
        main=f"benchmarks.{name}:main",
        config=f"benchmarks.{name}:{config}",
        first=FIRST.get(name, ()),
        words=FILES if name == "corpora" else NO_WORDS,
    )
    for name, config, summary in BENCHMARKS
)


def main(argv: list[str]) -> int:
    """Dispatch to a benchmark."""
    return dispatch(COMMANDS, argv, "python -m benchmarks", "", {})


if __name__ == "__main__":  # processes that a benchmark starts import this module too, under another name
    sys.exit(cli.run(main))
