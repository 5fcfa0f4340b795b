# SPDX-License-Identifier: Apache-2.0
"""Soft labels: ``accelerate launch -m harness.label`` on every rank, ``python -m harness label`` alone."""

from __future__ import annotations

from pathlib import Path

from harness.inference.config import LabelConfig
from harness.ranks import stopping
from harness.ranks.stopping import leave, run_rank
from preprocessing.base import cli

PROG = "accelerate launch -m harness.label"


def main(argv: list[str]) -> int:
    """Score rows on this rank, whatever their number; returns the exit code."""
    stopping.unblock()  # a round's labelling is simply ended
    label(cli.parse(LabelConfig, argv, prog=PROG, example=f"{PROG} --run runs/mine --data data/mine"))
    return 0


def here(config: LabelConfig) -> None:
    """Score rows in this process."""
    label(config)


def label(config: LabelConfig) -> Path | None:
    """Write soft labels; the file, or None on a rank that has no part in it, since a linear model needs one process."""
    from harness.inference.labelling import label_with_baseline, label_with_run
    from harness.ranks.distributed import launched_rank
    from harness.ranks.session import open_session

    if config.baseline:
        return label_with_baseline(config) if launched_rank() == 0 else None
    with open_session(config.device, "fp32", config.timeout_s, config.threads) as session:
        return label_with_run(config, session)


if __name__ == "__main__":
    leave(run_rank(main))
