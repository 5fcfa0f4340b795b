# SPDX-License-Identifier: Apache-2.0
"""Weights read by torch: a bundle on any device, in fp32 or with its recurrent layers in bf16."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from harness.inference.bundle import read_bundle
from harness.inference.logits import logits_of
from harness.model.registry import CELLS
from harness.ranks.allocator import keep_memory
from harness.ranks.precision import DTYPES, as_arithmetic, choose_device, choose_precision, full_fp32, recurrent_dtype
from harness.rundir.bundle_files import bundle_directory


class TorchScorer:
    """A bundle. On a CPU one thread computes, whatever the machine: so its figures are the same in any company."""

    def __init__(self, run: str, settled: dict[str, str], batch_rows: int) -> None:
        """Load and verify the bundle of ``run``, or the bundle directory ``run`` itself."""
        self.device = torch.device(settled["device"])
        if self.device.type == "cpu":
            torch.set_num_threads(1)
            keep_memory()
        full_fp32()
        self.bundle = read_bundle(bundle_directory(run))
        self.bundle.model.to(self.device)
        self.encoder = self.bundle.encoder()
        self.labels = self.bundle.info.labels
        self.decision = self.bundle.decision
        self.batch_rows = batch_rows
        arithmetic = as_arithmetic(choose_precision(settled["precision"], self.device.type))  # type: ignore[arg-type]
        able = CELLS[self.bundle.model.config.cell].bf16_on_cpu
        chosen = recurrent_dtype(arithmetic, self.device.type, "padded", bf16_on_cpu=able)
        self.dtype = None if chosen.value == "fp32" else DTYPES[chosen.value]

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """The device and the precision that this machine has for what was asked. Raises ``ConfigError``."""
        place = choose_device(device).value
        return {"device": place, "precision": choose_precision(precision, place).value}  # type: ignore[arg-type]

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text."""
        encoded = self.encoder(texts)
        return np.split(encoded.ids, encoded.offsets[1:-1]) if texts else []

    def score(self, encoded: list[Any]) -> np.ndarray:
        """Logits, float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # a thread's own: Dask's are not the one that opened the bundle
        return logits_of(self.bundle.model, encoded, self.batch_rows, self.dtype)

    def exact(self, encoded: list[Any]) -> np.ndarray:
        """The same in fp32."""
        return logits_of(self.bundle.model, encoded, self.batch_rows)
