# SPDX-License-Identifier: Apache-2.0
"""``padless COMMAND``, also ``python -m harness COMMAND``: all but the entry points of ``accelerate launch``."""

from __future__ import annotations

import sys

from harness.launch import stop

if __name__ == "__main__":  # before the other imports: a signal may come that early
    stop.listen(sys.argv[1:])

from preprocessing.__main__ import COMMANDS as OF_DATASETS
from preprocessing.base import cli
from preprocessing.base.cli import Command, complete, dispatch
from preprocessing.base.installed import keep_folder_out

COMMANDS = (
    OF_DATASETS[0],
    Command(
        "train",
        "DATA",
        "Train, with checks before the start.",
        "harness.launch.launcher:main",
        "harness.launch.options:TrainConfig",
        elsewhere="fit, run, training, resume, finetune, vectors, pretrain --task language_model, plan DATA --dry_run",
        first=("data", "run", "num_processes", "epochs", "global_batch", "optim.lr"),
        example="padless train data/mine -o runs/mine --num_processes 2",
    ),
    Command(
        "predict",
        "RUN TEXT … | FILE",
        "Predict texts, or every row of a file.",
        "harness.inference.predict:main",
        "harness.inference.config:PredictConfig",
        elsewhere="classify, infer, inference, label",
        first=("run", "input", "output", "column", "processes"),
        example='padless predict runs/mine "a fine film"',
    ),
    Command(
        "evaluate",
        "RUN [FILE]",
        "Scores on new labelled rows, or on a split.",
        "harness.evaluate:here",
        "harness.inference.config:EvaluateConfig",
        elsewhere="eval, test, score",
        first=("run", "input", "data", "split", "output"),
        example="padless evaluate runs/mine new.csv",
    ),
    Command(
        "explain",
        "RUN TEXT … | FILE",
        "What each word adds to a class's score.",
        "harness.inference.explanation:main",
        "harness.inference.config:ExplainConfig",
        first=("run", "input", "output", "column", "label"),
        example='padless explain runs/mine "a fine film"',
    ),
    Command(
        "report",
        "RUN …",
        "HTML report of one run or several.",
        "harness.report.page:main",
        "harness.report.page:ReportConfig",
        elsewhere="compare, plot, visualize",
        example="padless report runs/first runs/second -o both.html",
    ),
    *OF_DATASETS[1:],
    Command(
        "baseline",
        "DATA",
        "Scores of a linear model, in seconds.",
        "harness.baseline.results:main",
        "harness.baseline.results:BaselineConfig",
        example="padless baseline data/mine",
    ),
    Command(
        "tutorial",
        "",
        "Write the tutorial's files here.",
        "harness.launch.starting_points:tutorial",
        "harness.launch.starting_points:TutorialConfig",
    ),
    Command(
        "doctor",
        "[DATA]",
        "Whether a training can run here; what to change.",
        "harness.launch.doctor:main",
        "harness.launch.doctor:DoctorConfig",
        first=("data", "run", "device", "precision", "json"),
        example="padless doctor data/mine --num_processes 2",
    ),
    Command(
        "submit",
        '"JOB …" …',
        "Job scripts for SLURM, or jobs in a chain.",
        "harness.slurm.jobs:main",
        "harness.slurm.config:SubmitConfig",
        first=("nodes", "gpus", "cpus", "time", "print"),
        example='padless submit "train data/mine" --gpus 4 --time 60',
    ),
    Command(
        "export",
        "RUN",
        "A folder to share: weights, ONNX, model card.",
        "harness.export.folder:main",
        "harness.export.config:ExportConfig",
        elsewhere="convert, onnx, publish, push, upload, save",
        example="padless export runs/mine -o exports/mine --onnx",
        heading="after a training",
    ),
    Command(
        "runs",
        "[FOLDER]",
        "The runs below a folder, newest first.",
        "harness.launch.starting_points:runs",
        "harness.launch.starting_points:RunsConfig",
        elsewhere="ls, list, history, checkpoint, checkpoints",
    ),
    Command(
        "wandb-sync",
        "RUN",
        "Send rows to W&B that were kept offline or lost.",
        "harness.tracking.wandb_run:main",
        "harness.tracking.wandb_run:SyncConfig",
    ),
)


def main(argv: list[str]) -> int:
    """Dispatch to a command; ``launch`` is a second name of ``train``."""
    return dispatch(COMMANDS, ["train", *argv[1:]] if argv[:1] == ["launch"] else argv)


def script() -> int:
    """The console script ``padless``."""
    stop.listen(sys.argv[1:])
    complete(COMMANDS)
    keep_folder_out()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(cli.run(main))
