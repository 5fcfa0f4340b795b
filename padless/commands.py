# SPDX-License-Identifier: Apache-2.0
"""The table of the commands of ``padless``."""

from __future__ import annotations

import os
import sys

from padless.core import cli, signals
from padless.core.cli import Command, dispatch

COMMANDS = (
    Command(
        "prepare",
        "FILE …",
        "Build a dataset directory from labelled texts.",
        "preprocessing.pipeline.build:prepare_dataset",
        "preprocessing.config:PreprocessConfig",
        first=("source.path", "output", "source.text_column", "source.label_column", "text.max_tokens"),
        example="padless prepare reviews.csv -o data/mine",
    ),
    Command(
        "train",
        "DATA",
        "Train, with checks before the start.",
        "harness.launch.many:main",
        "harness.launch.options:TrainConfig",
        first=("data", "run", "num_processes", "epochs", "global_batch", "optim.lr"),
        example="padless train data/mine -o runs/mine --num_processes 2",
    ),
    Command(
        "predict",
        "RUN TEXT … | FILE",
        "Predict texts, or every row of a file.",
        "harness.inference.predict:main",
        "harness.inference.config:PredictConfig",
        first=("run", "input", "output", "processes", "share"),
        example='padless predict runs/mine "a fine film"',
    ),
    Command(
        "evaluate",
        "RUN [FILE]",
        "Scores on new labelled rows, or on a split.",
        "harness.inference.evaluation:main",
        "harness.inference.config:EvaluateConfig",
        example="padless evaluate runs/mine new.csv",
    ),
    Command(
        "explain",
        "RUN TEXT … | FILE",
        "What each word adds to a class's score.",
        "harness.inference.explanation:main",
        "harness.inference.config:ExplainConfig",
        example='padless explain runs/mine "a fine film"',
    ),
    Command(
        "report",
        "RUN",
        "HTML report of a run.",
        "harness.output.report:main",
        "harness.output.report:ReportConfig",
        example="padless report runs/first --open",
    ),
    Command(
        "inspect",
        "DATA",
        "What is in a dataset, and how good it is.",
        "preprocessing.dataset.inspect:main",
        "preprocessing.dataset.inspect:InspectConfig",
    ),
    Command(
        "baseline",
        "DATA",
        "Scores of a TF-IDF baseline, in seconds.",
        "harness.baselines.measured:main",
        "harness.baselines.measured:BaselineConfig",
        example="padless baseline data/mine",
    ),
    Command(
        "suspects",
        "DATA",
        "Rows whose label is probably wrong.",
        "harness.baselines.suspects:main",
        "harness.baselines.suspects:SuspectsConfig",
        example="padless suspects data/mine -o suspects.csv",
    ),
    Command(
        "tutorial",
        "",
        "Write the tutorial's files here.",
        "preprocessing.sources.tutorial:main",
        "preprocessing.sources.tutorial:TutorialConfig",
    ),
    Command(
        "export",
        "RUN",
        "A folder to share: weights, ONNX, model card.",
        "harness.output.export:main",
        "harness.inference.config:ExportConfig",
        example="padless export runs/mine -o exports/mine --onnx",
    ),
    Command(
        "wandb-sync",
        "RUN",
        "Send rows to W&B that were kept offline or lost.",
        "harness.output.wandb_run:main",
        "harness.output.wandb_run:SyncConfig",
    ),
)


def main(argv: list[str]) -> int:
    """Run the command that ``argv`` begins with."""
    return dispatch(COMMANDS, argv)


def run_console_script() -> int:
    """Run the command of ``sys.argv``; returns its exit code."""
    if sys.argv[1:2] == ["train"]:  # it stops its ranks first
        signals.listen_in_launcher()
    else:
        signals.COMMAND.listen()
    # Child processes import from no working folder, which may hold another ``harness``; no effect in Python 3.10.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    return cli.run(main)
