# SPDX-License-Identifier: Apache-2.0
"""Which device the tests of this folder use: CUDA where there is a card, else the CPU, or PADLESS_TEST_DEVICE."""

from __future__ import annotations

import os

import pytest
import torch

from harness.distributed.precision import list_precisions

DEVICE = os.environ.get("PADLESS_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
ON_CUDA = DEVICE == "cuda"
TORCH_DEVICE = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
REVIEWS = 384 if ON_CUDA else 96
"""Rows of the corpus of long texts, on a CPU as many as take seconds."""
on_device = pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device")
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="only CUDA computes beside the host")
for_two_ranks = pytest.mark.skipif(ON_CUDA and torch.cuda.device_count() < 2, reason="NCCL needs a card for each rank")


def skip_without(precision: str) -> None:
    """Skip where the device cannot compute in ``precision``; a CPU computes in fp32 alone here, which is fast."""
    if precision not in (list_precisions(DEVICE) if ON_CUDA else ["fp32"]):
        pytest.skip(f"{precision}: this {DEVICE} device cannot compute in it")
