# SPDX-License-Identifier: Apache-2.0
"""Which device the tests of this folder use: CUDA where there is a card, else the CPU, or PADLESS_TEST_DEVICE."""

from __future__ import annotations

import os

import pytest
import torch

from harness.ranks.precision import runnable

DEVICE = os.environ.get("PADLESS_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
ON_CUDA = DEVICE == "cuda"
TORCH_DEVICE = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
REVIEWS = 384 if ON_CUDA else 96
"""Rows of the corpus of long texts, on a CPU as many as take seconds."""
on_device = pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device")
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="a CPU cannot do it: only CUDA limits what a process may allocate")


def needs(precision: str) -> None:
    """Skip where the device cannot compute in ``precision``."""
    if ON_CUDA and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if precision not in runnable(DEVICE):
        pytest.skip(f"{precision}: this {DEVICE} device cannot compute in it")
