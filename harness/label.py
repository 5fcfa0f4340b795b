# SPDX-License-Identifier: Apache-2.0
"""Soft labels: ``accelerate launch -m harness.label`` on every rank, ``padless label`` on one."""

from __future__ import annotations

from dataclasses import replace

from harness.config import AUTO
from harness.inference.config import LabelConfig
from harness.ranks.stopping import leave, run_rank
from harness.rundir.records import dataset_of
from preprocessing.base import cli


def main(argv: list[str]) -> int:
    """Score rows on this rank; returns the exit code."""
    label(cli.parse(LabelConfig, argv, prog="accelerate launch -m harness.label"))
    return 0


def label(config: LabelConfig) -> None:
    """Write soft labels. The linear model runs on rank 0 alone."""
    from harness.inference.evaluation import label_with_baseline, label_with_run
    from harness.ranks.distributed import launched_rank
    from harness.ranks.session import open_session

    if config.data == AUTO and config.run is not None:
        config = replace(config, data=dataset_of(config.run))
    if not config.baseline:
        with open_session(config.device, "fp32", config.timeout_s, config.threads) as session:
            label_with_run(config, session)
    elif launched_rank() == 0:
        label_with_baseline(config)


if __name__ == "__main__":
    leave(run_rank(main))
