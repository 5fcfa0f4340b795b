# SPDX-License-Identifier: Apache-2.0
"""Predictions: ``accelerate launch -m harness.predict`` on every rank; without it, ``padless predict``."""

from __future__ import annotations

from harness.inference import predict
from harness.inference.config import PredictConfig
from harness.ranks.stopping import leave, run_rank
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError


def main(argv: list[str]) -> int:
    """Predict on this rank; returns the exit code."""
    config = cli.parse(PredictConfig, argv, prog="accelerate launch -m harness.predict")
    if config.output is None:
        raise ConfigError("nothing to predict: name the files to read with --input and what to write with --output")
    if config.executor != "local" or config.processes is not None:
        raise ConfigError("executor and processes: under accelerate launch the ranks predict; leave these out")
    from harness.ranks.session import open_session

    with open_session(config.device, "fp32", int(config.timeout_s)) as session:
        predict.predict_on_ranks(config, session.world)
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
