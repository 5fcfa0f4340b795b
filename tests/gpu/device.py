# SPDX-License-Identifier: Apache-2.0
"""Which device the tests of this folder use: CUDA, or the CPU with PADLESS_TEST_DEVICE=cpu to try their logic."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("PADLESS_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE == "cuda"
TORCH_DEVICE = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
on_device = pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device")
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="means nothing without CUDA")
