# SPDX-License-Identifier: Apache-2.0
"""Evaluation: ``accelerate launch -m harness.evaluate`` on every rank, ``padless evaluate`` on one."""

from __future__ import annotations

from typing import Any

from harness.distributed.devices import check_device
from harness.distributed.stopping import run_rank
from harness.inference.config import EvaluateConfig, resolve_evaluation
from padless.core import cli
from padless.core.errors import ConfigError
from padless.core.signals import end_process


def main(argv: list[str]) -> int:
    """Evaluate on this rank; returns the exit code."""
    config = resolve_evaluation(cli.parse(EvaluateConfig, argv, prog="accelerate launch -m harness.evaluate"))
    if config.input is not None:
        raise ConfigError(
            "input: one process evaluates new rows: `padless evaluate`; here, leave it out or give --data"
        )
    evaluate_here(config)
    return 0


def evaluate_here(config: EvaluateConfig) -> None:
    """Evaluate on new labelled rows or, without ``input``, on a split of a dataset."""
    measure_here(config)


def measure_here(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of an evaluation."""
    config = resolve_evaluation(config)
    check_device(config.device)
    from harness.distributed.session import open_session
    from harness.inference.evaluation import evaluate, evaluate_input

    if config.input is not None:
        return evaluate_input(config)
    with open_session(config.device, "fp32", config.timeout_s) as session:
        return evaluate(config, session)


if __name__ == "__main__":
    end_process(run_rank(main))
