# SPDX-License-Identifier: Apache-2.0
"""``python -m harness COMMAND``: everything but the two entry points that run under ``accelerate launch``."""

from __future__ import annotations

import importlib
import sys

from preprocessing.base import cli

COMMANDS = {
    "launch": (
        "launch.launcher",
        "Train: accelerate launch with checks before it, quiet failures and true exit codes.",
    ),
    "plan": ("launch.plan", "Steps, padding, memory and balance of a run, from the manifest alone."),
    "doctor": ("launch.doctor", "Whether a training would run here: devices, limits, file systems, network."),
    "predict": ("inference.predict", "Predict raw texts, or every row of a file, with the best weights of a run."),
    "report": ("report.page", "Everything known of a run, or of several side by side, in one HTML file."),
    "checkpoint": ("launch.checkpoints", "List, verify or compare the checkpoints of a run."),
    "wandb-sync": ("tracking.wandb_sync", "Send to W&B what a run kept offline, and every row that is missing there."),
    "dashboard": (
        "tracking.dashboard",
        "Build a W&B workspace for runs of padless; save it with --save ENTITY/PROJECT.",
    ),
    "bench": ("bench.command", "Measure this machine: recurrence, train, loader; each beside what people use today."),
}
"""Command -> module with a ``main(argv)``, imported when it is asked for; and what it is for."""


def main(argv: list[str]) -> int:
    """Dispatch to a command."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m harness COMMAND [options]   (COMMAND --help says more)\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:<12} {summary}")
        print("\n  accelerate launch -m harness.train and -m harness.evaluate are the entry points of every rank.")
        return 0 if argv else 2
    name, rest = cli.choose(COMMANDS, argv, "python -m harness")
    module, _ = COMMANDS[name]
    return int(importlib.import_module(f"harness.{module}").main(rest))


if __name__ == "__main__":
    sys.exit(cli.run(main))
