# SPDX-License-Identifier: Apache-2.0
"""``python -m harness COMMAND``: everything but the two entry points that run under ``accelerate launch``."""

from __future__ import annotations

import sys

from harness.launch import stop

if __name__ == "__main__":  # before the other imports: a signal may come that early
    stop.listen(sys.argv[1:])

from preprocessing.base import cli
from preprocessing.base.cli import Command, Words, complete, dispatch
from preprocessing.base.installed import keep_folder_out

PROG = "python -m harness"
NOTE = (
    "accelerate launch -m harness.train, -m harness.pretrain, -m harness.evaluate, -m harness.predict: on every rank."
)
ELSEWHERE = {
    **dict.fromkeys(("fit", "run"), "launch"),
    "pretrain": "launch --task language_model",
    **dict.fromkeys(("eval", "test", "score"), "evaluate"),
    **dict.fromkeys(("infer", "classify"), "predict"),
    **dict.fromkeys(("interpret", "attribute", "attributions"), "explain"),
    **dict.fromkeys(("pseudo-label", "soft-labels", "teach", "distill"), "label"),
    **dict.fromkeys(("preprocess", "prepare", "preprocessing"), "python -m preprocessing run"),
    **dict.fromkeys(("convert", "onnx", "publish", "push", "upload", "save"), "export"),
    "inspect": "python -m preprocessing inspect",
    "checkpoints": "checkpoint",
    "sync": "wandb-sync",
    **dict.fromkeys(("slurm", "sbatch", "srun"), "submit"),
}
"""What other tools call a command, and the one that is meant."""
ONE_RUN = Words(spelling="RUN", noun="run", takes="one run directory")
COMMANDS = (
    Command(
        name="launch",
        also=("train",),
        summary="Train, with checks before it and true exit codes.",
        main="harness.launch.many:main",
        keys="harness.config:LaunchRecipe",
    ),
    Command(
        name="plan",
        summary="How a run would go: steps, padding, memory, balance.",
        main="harness.launch.plan:main",
        config="harness.launch.plan:PlanConfig",
        first=("world_size", "data", "epochs", "global_batch", "json"),
        example="python -m harness plan --data data/mine --global_batch 256 --world_size 4",
    ),
    Command(
        name="doctor",
        summary="Whether a training would run here, and what to change.",
        main="harness.launch.doctor:main",
        keys="harness.launch.doctor:DoctorConfig",
    ),
    Command(
        name="submit",
        summary="Job scripts for SLURM, printed or submitted in a chain.",
        main="harness.slurm.jobs:main",
        config="harness.slurm.config:SubmitConfig",
        words=Words(
            spelling='"JOB …" …',
            noun="job",
            takes="commands with their options, each in quotes",
            most=None,
        ),
        first=("nodes", "gpus", "cpus", "time", "print"),
        example='python -m harness submit "train --config mine.yaml" --gpus 4 --time 60',
    ),
    Command(
        name="baseline",
        summary="What a linear model reaches on a dataset, in seconds.",
        main="harness.baseline.results:main",
        config="harness.baseline.results:BaselineConfig",
        example="python -m harness baseline --data data/mine",
    ),
    Command(
        name="predict",
        summary="Predict texts, or every row of a file, with a trained run.",
        main="harness.inference.predict:main",
        config="harness.inference.config:PredictConfig",
        words=Words(spelling='["text" …]', noun="text", takes="texts", least=0, most=None, texts=True),
        first=("run", "input", "output", "column", "processes"),
        example='python -m harness predict --run runs/mine "a fine film"',
    ),
    Command(
        name="explain",
        summary="What each word of a text adds to a class.",
        main="harness.inference.explanation:main",
        config="harness.inference.config:ExplainConfig",
        words=Words(
            spelling="RUN TEXT …", noun="run", takes="one run directory, then texts", least=0, most=None, texts=True
        ),
        first=("run", "input", "output", "column", "label"),
        example='python -m harness explain runs/mine "a fine film"',
    ),
    Command(
        name="evaluate",
        summary="How good a run is on new labelled rows, or on a split.",
        main="harness.evaluate:here",
        config="harness.inference.config:EvaluateConfig",
        first=("run", "input", "data", "split", "output"),
        example="python -m harness evaluate --run runs/mine --input new.csv",
    ),
    Command(
        name="label",
        summary="Soft labels of a run for unlabelled rows, to learn from.",
        main="harness.label:here",
        config="harness.inference.config:LabelConfig",
        first=("data", "run", "baseline", "batch", "output"),
        example="python -m harness label --run runs/mine --data data/mine",
    ),
    Command(
        name="export",
        summary="A run as a folder to hand on: weights, ONNX, model card.",
        main="harness.export.folder:main",
        config="harness.export.config:ExportConfig",
        words=Words(spelling="RUN", noun="run", takes="one run directory"),
        example="python -m harness export runs/mine --output exports/mine --onnx --int8",
    ),
    Command(
        name="report",
        summary="All that is known of one run or several, as HTML.",
        main="harness.report.page:main",
        config="harness.report.page:ReportConfig",
        words=Words(spelling="RUN [RUN …]", noun="run", takes="one run directory or several", most=None),
        example="python -m harness report runs/first runs/second --output both.html",
    ),
    Command(
        name="recipes",
        summary="The recipes that come with padless, to see or to copy.",
        main="harness.launch.starting_points:recipes",
        config="harness.launch.starting_points:RecipesConfig",
        words=Words(spelling="[NAME …]", noun="recipe", takes="names of recipes", least=0, most=None),
        example="python -m harness recipes imdb",
    ),
    Command(
        name="checkpoint",
        summary="Every checkpoint of a run, and whether it is whole.",
        main="harness.launch.starting_points:checkpoints",
        config="harness.launch.starting_points:CheckpointConfig",
        words=ONE_RUN,
    ),
    Command(
        name="wandb-sync",
        summary="Send to W&B what a run kept offline or lost there.",
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
