# SPDX-License-Identifier: Apache-2.0
"""``padless COMMAND``, also ``python -m harness COMMAND``: all but the entry points of ``accelerate launch``."""

from __future__ import annotations

import sys

from harness.launch import stop

if __name__ == "__main__":  # before the other imports: a signal may come that early
    stop.listen(sys.argv[1:])

from preprocessing.__main__ import COMMANDS as OF_DATASETS
from preprocessing.__main__ import NOTE, PROG
from preprocessing.base import cli
from preprocessing.base.cli import Command, complete, dispatch
from preprocessing.base.installed import keep_folder_out

ACCELERATE = "harness.launch.launcher:split_arguments"
COMMANDS = (
    OF_DATASETS[0],
    Command(
        "train",
        "Train, with checks before the start.",
        also=("launch",),
        main="harness.launch.many:main",
        elsewhere="fit, run, pretrain --task language_model",
        config="harness.config:LaunchRecipe",
        words="DATA",
        first=("data", "run", "epochs", "global_batch", "optim.lr"),
        example="padless train data/mine -o runs/mine --num_processes 2",
        others=ACCELERATE,
    ),
    Command(
        "predict",
        "Predict texts, or every row of a file.",
        elsewhere="infer, classify",
        main="harness.inference.predict:main",
        config="harness.inference.config:PredictConfig",
        words="RUN TEXT … | FILE",
        first=("run", "input", "output", "column", "processes"),
        example='padless predict runs/mine "a fine film"',
    ),
    Command(
        "evaluate",
        "Scores on new labelled rows, or on a split.",
        main="harness.evaluate:here",
        elsewhere="eval, test, score",
        config="harness.inference.config:EvaluateConfig",
        words="RUN [FILE]",
        first=("run", "input", "data", "split", "output"),
        example="padless evaluate runs/mine new.csv",
    ),
    Command(
        "explain",
        "What each word adds to a class's score.",
        elsewhere="interpret, attribute, attributions",
        main="harness.inference.explanation:main",
        config="harness.inference.config:ExplainConfig",
        words="RUN TEXT … | FILE",
        first=("run", "input", "output", "column", "label"),
        example='padless explain runs/mine "a fine film"',
    ),
    Command(
        "report",
        "HTML report of one run or several.",
        main="harness.report.page:main",
        config="harness.report.page:ReportConfig",
        words="RUN …",
        example="padless report runs/first runs/second -o both.html",
    ),
    *OF_DATASETS[1:],
    Command(
        "baseline",
        "Scores of a linear model, in seconds.",
        main="harness.baseline.results:main",
        config="harness.baseline.results:BaselineConfig",
        words="DATA",
        example="padless baseline data/mine",
    ),
    Command(
        "init",
        "A commented configuration for your file.",
        elsewhere="new, create, config",
        main="harness.launch.starting_points:init",
        config="harness.launch.starting_points:InitConfig",
        words="FILE …",
        first=("source.path", "output", "source.text_column", "source.label_column", "splits.group_column"),
        example="padless init reviews.csv -o mine.yaml",
        heading="before a training",
    ),
    Command(
        "tutorial",
        "Write the tutorial's files here.",
        main="harness.launch.starting_points:tutorial",
        config="harness.launch.starting_points:TutorialConfig",
    ),
    Command(
        "recipes",
        "List or copy the recipes that come with padless.",
        main="harness.launch.starting_points:recipes",
        config="harness.launch.starting_points:RecipesConfig",
        words="[NAME …]",
        example="padless recipes imdb",
    ),
    Command(
        "plan",
        "Forecast: steps, padding, memory, balance.",
        main="harness.launch.plan:main",
        config="harness.launch.plan:PlanConfig",
        words="DATA",
        first=("world_size", "data", "epochs", "global_batch", "json"),
        example="padless plan data/mine --global_batch 256 --world_size 4",
    ),
    Command(
        "doctor",
        "Whether a training can run here; what to change.",
        main="harness.launch.doctor:main",
        config="harness.launch.doctor:DoctorConfig",
        words="[DATA]",
        first=("data", "run", "device", "precision", "json"),
        example="padless doctor data/mine --num_processes 2",
        others=ACCELERATE,
    ),
    Command(
        "submit",
        "Job scripts for SLURM, or jobs in a chain.",
        elsewhere="slurm, sbatch, srun",
        main="harness.slurm.jobs:main",
        config="harness.slurm.config:SubmitConfig",
        words='"JOB …" …',
        first=("nodes", "gpus", "cpus", "time", "print"),
        example='padless submit "train data/mine" --gpus 4 --time 60',
    ),
    Command(
        "export",
        "A folder to share: weights, ONNX, model card.",
        elsewhere="convert, onnx, publish, push, upload, save",
        main="harness.export.folder:main",
        config="harness.export.config:ExportConfig",
        words="RUN",
        example="padless export runs/mine -o exports/mine --onnx --int8",
        heading="after a training",
    ),
    Command(
        "label",
        "Soft labels for unlabelled rows, to train on.",
        main="harness.label:label",
        elsewhere="pseudo_label, soft_labels, teach, distill",
        config="harness.inference.config:LabelConfig",
        words="RUN [DATA]",
        first=("data", "run", "baseline", "batch", "output"),
        example="padless label runs/mine",
    ),
    Command(
        "runs",
        "The runs below a folder, newest first.",
        elsewhere="ls, list, history",
        main="harness.launch.starting_points:runs",
        config="harness.launch.starting_points:RunsConfig",
        words="[FOLDER]",
    ),
    Command(
        "checkpoint",
        "Every checkpoint of a run; whether it is intact.",
        elsewhere="checkpoints",
        main="harness.launch.starting_points:checkpoints",
        config="harness.launch.starting_points:CheckpointConfig",
        words="RUN",
    ),
    Command(
        "wandb-sync",
        "Send rows to W&B that were kept offline or lost.",
        elsewhere="sync",
        main="harness.tracking.wandb_run:main",
        config="harness.tracking.wandb_run:SyncConfig",
        words="RUN",
    ),
)


def main(argv: list[str]) -> int:
    """Dispatch to a command."""
    return dispatch(COMMANDS, argv, PROG, NOTE)


def script() -> int:
    """The console script ``padless``."""
    stop.listen(sys.argv[1:])
    complete(COMMANDS)
    keep_folder_out()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(cli.run(main))
