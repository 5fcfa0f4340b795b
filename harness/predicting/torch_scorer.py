# SPDX-License-Identifier: Apache-2.0
"""Weights read by torch: a bundle on any device, in fp32 or with its recurrent layers in bf16."""

from __future__ import annotations

import numpy as np
import torch

from harness.inference import torch_scorer
from harness.model.registry import CELLS
from harness.ranks.precision import (
    DTYPES,
    as_arithmetic,
    choose_device,
    choose_precision,
    full_fp32,
    keep_memory,
    recurrent_dtype,
)
from harness.rundir.bundle_files import bundle_directory


class TorchScorer(torch_scorer.TorchScorer):
    """A bundle. On a CPU one thread computes, whatever the machine: so its figures are the same in any company."""

    def __init__(self, run: str, settled: dict[str, str], batch_rows: int) -> None:
        """Load and verify the bundle of ``run``, or the bundle directory ``run`` itself."""
        self.device = torch.device(settled["device"])
        if self.device.type == "cpu":
            torch.set_num_threads(1)
            keep_memory()
        full_fp32()
        super().__init__(bundle_directory(run), batch_rows)
        self.bundle.model.to(self.device)
        arithmetic = as_arithmetic(choose_precision(settled["precision"], self.device.type))  # type: ignore[arg-type]
        able = CELLS[self.bundle.model.config.cell].bf16_on_cpu
        chosen = recurrent_dtype(arithmetic, self.device.type, "padded", bf16_on_cpu=able)
        self.dtype = None if chosen.value == "fp32" else DTYPES[chosen.value]

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """The device and the precision that this machine has for what was asked. Raises ``ConfigError``."""
        place = choose_device(device).value
        return {"device": place, "precision": choose_precision(precision, place).value}  # type: ignore[arg-type]

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Logits, float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # a thread's own: Dask's are not the one that opened the bundle
        return super().score(encoded)
