# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.evaluate``: parse, join the other ranks, score, write."""

from __future__ import annotations

from harness.inference.config import EvaluateConfig
from harness.ranks import devices
from harness.ranks.exit import leave, run_rank
from preprocessing.base import cli
from preprocessing.base.help_page import Page

PROG = "accelerate launch -m harness.evaluate"
PAGE = Page(
    usage=f"{PROG} --run RUN --data DATA [--key …]",
    about=EvaluateConfig.__doc__ or "",
    example=f"{PROG} --run runs/mine --data data/mine",
)


def main(argv: list[str]) -> int:
    """Evaluate on this rank, whatever their number; returns the exit code."""
    config = cli.parse(EvaluateConfig, argv, prog=PROG, page=PAGE, in_front=devices.LAUNCHER_OPTIONS)
    from harness.inference.evaluation import evaluate
    from harness.ranks.session import open_session

    with open_session(config.device, "fp32", config.timeout_s, config.threads) as session:
        evaluate(config, session)
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
