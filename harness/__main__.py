# SPDX-License-Identifier: Apache-2.0
"""``padless COMMAND``, also ``python -m harness COMMAND``: all but the entry points of ``accelerate launch``."""

from __future__ import annotations

import sys

from harness.launch import stop

if __name__ == "__main__":  # before the other imports: a signal may come that early
    stop.listen(sys.argv[1:])

from preprocessing.__main__ import COMMANDS as OF_DATASETS
from preprocessing.base import cli
from preprocessing.base.cli import Command, Words, complete, dispatch
from preprocessing.base.installed import keep_folder_out

PROG = "padless"
NOTE = "accelerate launch -m harness.train, -m harness.evaluate, -m harness.predict: the same on every rank."
ELSEWHERE = {
    "train": "fit run",
    "train --task language_model": "pretrain",
    "evaluate": "eval test score",
    "predict": "infer classify",
    "explain": "interpret attribute attributions",
    "label": "pseudo_label soft_labels teach distill",
    "prepare": "preprocess preprocessing build encode",
    "check": "verify validate",
    "inspect": "show stats info",
    "fetch-nltk": "download",
    "export": "convert onnx publish push upload save",
    "checkpoint": "checkpoints",
    "wandb-sync": "sync",
    "submit": "slurm sbatch srun",
}
"""A command -> its names in other tools."""
ONE_RUN = Words("RUN", takes="one run directory")
COMMANDS = (
    *OF_DATASETS,
    Command(
        "train",
        "Train, with checks before the start and exact exit codes.",
        also=("launch",),
        main="harness.launch.many:main",
        keys="harness.config:LaunchRecipe",
    ),
    Command(
        "plan",
        "Forecast of a run: steps, padding, memory, balance.",
        main="harness.launch.plan:main",
        config="harness.launch.plan:PlanConfig",
        first=("world_size", "data", "epochs", "global_batch", "json"),
        example="padless plan --data data/mine --global_batch 256 --world_size 4",
    ),
    Command(
        "doctor",
        "Check whether a training can run here, and what to change.",
        main="harness.launch.doctor:main",
        keys="harness.launch.doctor:DoctorConfig",
    ),
    Command(
        "submit",
        "Job scripts for SLURM, printed or submitted in a chain.",
        main="harness.slurm.jobs:main",
        config="harness.slurm.config:SubmitConfig",
        words=Words(
            '"JOB …" …',
            takes="commands with their options, each in quotes",
            most=None,
        ),
        first=("nodes", "gpus", "cpus", "time", "print"),
        example='padless submit "train --config mine.yaml" --gpus 4 --time 60',
    ),
    Command(
        "baseline",
        "Scores of a linear model on a dataset, in seconds.",
        main="harness.baseline.results:main",
        config="harness.baseline.results:BaselineConfig",
        example="padless baseline --data data/mine",
    ),
    Command(
        "predict",
        "Predict texts, or every row of a file, with a trained run.",
        main="harness.inference.predict:main",
        config="harness.inference.config:PredictConfig",
        words=Words('["text" …]', takes="texts", least=0, most=None, texts=True),
        first=("run", "input", "output", "column", "processes"),
        example='padless predict --run runs/mine "a fine film"',
    ),
    Command(
        "explain",
        "How much each word of a text adds to a class's score.",
        main="harness.inference.explanation:main",
        config="harness.inference.config:ExplainConfig",
        words=Words("RUN TEXT …", takes="one run directory, then texts", least=0, most=None, texts=True),
        first=("run", "input", "output", "column", "label"),
        example='padless explain runs/mine "a fine film"',
    ),
    Command(
        "evaluate",
        "Scores of a run on new labelled rows, or on a split.",
        main="harness.evaluate:here",
        config="harness.inference.config:EvaluateConfig",
        first=("run", "input", "data", "split", "output"),
        example="padless evaluate --run runs/mine --input new.csv",
    ),
    Command(
        "label",
        "Soft labels for unlabelled rows, to train on.",
        main="harness.label:label",
        config="harness.inference.config:LabelConfig",
        first=("data", "run", "baseline", "batch", "output"),
        example="padless label --run runs/mine --data data/mine",
    ),
    Command(
        "export",
        "A run as a folder to share: weights, ONNX, model card.",
        main="harness.export.folder:main",
        config="harness.export.config:ExportConfig",
        words=Words("RUN", takes="one run directory"),
        example="padless export runs/mine --output exports/mine --onnx --int8",
    ),
    Command(
        "report",
        "HTML report of one run or several.",
        main="harness.report.page:main",
        config="harness.report.page:ReportConfig",
        words=Words("RUN [RUN …]", takes="one run directory or several", most=None),
        example="padless report runs/first runs/second --output both.html",
    ),
    Command(
        "recipes",
        "List or copy the recipes that come with padless.",
        main="harness.launch.starting_points:recipes",
        config="harness.launch.starting_points:RecipesConfig",
        words=Words("[NAME …]", takes="names of recipes", least=0, most=None),
        example="padless recipes imdb",
    ),
    Command(
        "checkpoint",
        "Every checkpoint of a run, and whether it is intact.",
        main="harness.launch.starting_points:checkpoints",
        config="harness.launch.starting_points:CheckpointConfig",
        words=ONE_RUN,
    ),
    Command(
        "wandb-sync",
        "Send rows to W&B that were kept offline or lost.",
        main="harness.tracking.wandb_run:main",
        config="harness.tracking.wandb_run:SyncConfig",
        words=ONE_RUN,
    ),
)


def main(argv: list[str]) -> int:
    """Dispatch to a command."""
    return dispatch(COMMANDS, argv, PROG, NOTE, ELSEWHERE)


def script() -> int:
    """The console script ``padless``."""
    stop.listen(sys.argv[1:])
    complete(COMMANDS)
    keep_folder_out()
    return cli.run(main)


if __name__ == "__main__":
    sys.exit(cli.run(main))
