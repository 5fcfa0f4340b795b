# SPDX-License-Identifier: Apache-2.0
"""Evaluation: ``accelerate launch -m harness.evaluate`` on every rank, ``padless evaluate`` on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.inference.config import EvaluateConfig
from harness.ranks.stopping import leave, run_rank
from harness.rundir.bundle_files import bundle_directory, stored_info
from harness.rundir.records import dataset_of
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.views import read_data


def main(argv: list[str]) -> int:
    """Evaluate on this rank; returns the exit code."""
    config = cli.parse(EvaluateConfig, argv, prog="accelerate launch -m harness.evaluate")
    if config.input is not None:
        raise ConfigError(
            "input: one process evaluates new rows: `padless evaluate`; here, leave it out or give --data"
        )
    here(config)
    return 0


def here(config: EvaluateConfig) -> None:
    """Evaluate on new labelled rows or, without ``input``, on a split of a dataset."""
    measured(config)


def measured(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of an evaluation."""
    from harness.inference.evaluation import evaluate, evaluate_input
    from harness.ranks.session import open_session

    if config.input is not None:
        return evaluate_input(config)
    if config.data is None:
        config = replace(config, data=data_of(config.run))
    with open_session(config.device, "fp32", config.timeout_s, config.threads) as session:
        return evaluate(config, session)


def data_of(run: str) -> str:
    """The dataset that a run was trained on. Raises ``DataError`` if another one has its name now."""
    data, info = dataset_of(run), stored_info(bundle_directory(run))
    if info is not None and read_data(data).fingerprint != info.dataset:
        raise DataError(
            f"{data}: not the dataset that {run} was trained on, but one built since, and its rows may be training "
            f"rows; build the old one again, or score this one all the same with --data {data}"
        )
    return data


if __name__ == "__main__":
    leave(run_rank(main))
