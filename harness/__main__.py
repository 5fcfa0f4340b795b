# SPDX-License-Identifier: Apache-2.0
"""``python -m harness COMMAND``: everything but the two entry points that run under ``accelerate launch``."""

from __future__ import annotations

import sys

from preprocessing.base import cli
from preprocessing.base.commands import Command, Words, dispatch

PROG = "python -m harness"
NOTE = "accelerate launch -m harness.train and -m harness.evaluate are the entry points of every rank."
ONE_RUN = Words(spelling="RUN", noun="run", takes="one run directory")
CHECKPOINTS = (
    Command(
        name="list",
        summary="Every checkpoint of a run: step, epochs, best so far, whether whole.",
        main="harness.launch.checkpoints:show",
        config="harness.launch.checkpoints:ListConfig",
        words=ONE_RUN,
    ),
    Command(
        name="verify",
        summary="The same, with exit code 3 if any checkpoint is damaged.",
        main="harness.launch.checkpoints:verify",
        config="harness.launch.checkpoints:VerifyConfig",
        words=ONE_RUN,
    ),
    Command(
        name="diff",
        summary="What differs between two checkpoints, by default the newest two.",
        main="harness.launch.checkpoints:diff",
        config="harness.launch.checkpoints:DiffConfig",
        words=Words(spelling="RUN [STEP STEP]", noun="run", takes="one run directory and two steps", most=3),
    ),
)
BENCHES = tuple(
    Command(name=name, summary=summary, main=f"harness.bench.{name}:main", config=f"harness.bench.{name}:{config}")
    for name, config, summary in (
        ("recurrence", "RecurrenceConfig", "One LSTM layer on each path, forward and backward."),
        ("train", "TrainBenchConfig", "A training step, beside the loops that people write today."),
        ("loader", "LoaderConfig", "Loading batches, beside PyTorch, Hugging Face, Lightning and MosaicML."),
    )
)
COMMANDS = (
    Command(
        name="launch",
        summary="Train: accelerate launch with checks before it, quiet failures and true exit codes.",
        main="harness.launch.launcher:main",
    ),
    Command(
        name="plan",
        summary="Steps, padding, memory and balance of a run, from the manifest alone.",
        main="harness.launch.plan:main",
        config="harness.launch.plan:PlanConfig",
        shared="harness.config:RunConfig",
    ),
    Command(
        name="doctor",
        summary="Whether a training would run here: devices, limits, file systems, network.",
        main="harness.launch.doctor:main",
    ),
    Command(
        name="baseline",
        summary="What TF-IDF with logistic regression reaches on a dataset, in seconds; runs are held against it.",
        main="harness.baseline.command:main",
        config="harness.baseline.command:BaselineConfig",
    ),
    Command(
        name="predict",
        summary="Predict raw texts, or every row of a file, with the best weights of a run.",
        main="harness.inference.predict:main",
        config="harness.inference.predict:PredictConfig",
        words=Words(spelling='["text" …]', noun="text", takes="texts", least=0, most=None),
    ),
    Command(
        name="evaluate",
        summary="How good a run is on new labelled rows, and how they differ from its training.",
        main="harness.evaluate:here",
        config="harness.inference.config:EvaluateHereConfig",
    ),
    Command(
        name="report",
        summary="Everything known of a run, or of several side by side, in one HTML file.",
        main="harness.report.page:main",
        config="harness.report.page:ReportConfig",
        words=Words(spelling="RUN [RUN …]", noun="run", takes="one run directory or several", most=None),
    ),
    Command(name="checkpoint", summary="List, verify or compare the checkpoints of a run.", parts=CHECKPOINTS),
    Command(
        name="wandb-sync",
        summary="Send to W&B what a run kept offline, and every row that is missing there.",
        main="harness.tracking.wandb_sync:main",
        config="harness.tracking.wandb_sync:SyncConfig",
        words=ONE_RUN,
    ),
    Command(
        name="dashboard",
        summary="Build a W&B workspace for runs of padless; save it with --save ENTITY/PROJECT.",
        main="harness.tracking.dashboard:main",
        config="harness.tracking.dashboard:DashboardConfig",
    ),
    Command(
        name="bench",
        summary="Measure this machine: recurrence, train, loader; each beside what people use today.",
        parts=BENCHES,
    ),
)


def main(argv: list[str]) -> int:
    """Dispatch to a command."""
    return dispatch(COMMANDS, argv, PROG, NOTE)


if __name__ == "__main__":
    sys.exit(cli.run(main))
