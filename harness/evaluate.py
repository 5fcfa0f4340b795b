# SPDX-License-Identifier: Apache-2.0
"""``padless evaluate``: what can be refused is refused before torch is loaded."""

from __future__ import annotations

from typing import Any

from harness.distributed.devices import check_device
from harness.inference.config import EvaluateConfig, resolve_evaluation


def main(config: EvaluateConfig) -> None:
    """Evaluate on new labelled rows or, without ``input``, on a split of a dataset."""
    measure(config)


def measure(config: EvaluateConfig) -> dict[str, Any]:
    """The figures of an evaluation."""
    config = resolve_evaluation(config)
    check_device(config.device)
    from harness.inference.evaluation import evaluate_input, evaluate_split

    return evaluate_split(config) if config.input is None else evaluate_input(config)
