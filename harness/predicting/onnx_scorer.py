# SPDX-License-Identifier: Apache-2.0
"""Weights read by ONNX Runtime, where an export has them in that form; neither imports torch."""

from __future__ import annotations

from harness.inference import onnx_scorer
from harness.rundir.bundle_files import bundle_directory
from preprocessing.base.errors import ConfigError


class OnnxScorer(onnx_scorer.OnnxScorer):
    """An export on a CPU, one thread for each process."""

    int8 = False

    def __init__(self, run: str, settled: dict[str, str], batch_rows: int) -> None:
        """Load and verify the export ``run``."""
        super().__init__(bundle_directory(run), batch_rows, int8=self.int8, threads=1)

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """A CPU, in the precision of the file. Raises ``ConfigError`` for what it cannot do."""
        if device == "cuda":
            raise ConfigError("device: ONNX Runtime computes on CPUs here; leave --device out, or set --engine torch")
        if precision == "bf16":
            raise ConfigError("precision: an ONNX file has its own; leave --precision out, or set --engine torch")
        return {"device": "cpu", "precision": "fp32"}


class Int8Scorer(OnnxScorer):
    """The network whose weights are rounded to eight bits."""

    int8 = True
