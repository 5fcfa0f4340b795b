# SPDX-License-Identifier: Apache-2.0
"""Which device the tests of this folder use: CUDA where there is a card, else the CPU, or PADLESS_TEST_DEVICE."""

from __future__ import annotations

import os

import pytest
import torch

from harness.distributed.devices import choose, describe_device, find_cuda, is_without_cuda
from harness.distributed.precision import layout_on, list_precisions

DEVICE = os.environ.get("PADLESS_TEST_DEVICE") or ("cpu" if is_without_cuda() else "cuda")
"""Where a card or its driver is on the machine, the proof never falls back to the CPU: it fails, and says why."""
ON_CUDA = DEVICE == "cuda"
TORCH_DEVICE = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
REVIEWS = 384 if ON_CUDA else 96
"""Rows of the corpus of long texts, on a CPU as many as take seconds."""
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="only CUDA computes beside the host")
for_two_ranks = pytest.mark.skipif(ON_CUDA and find_cuda().num_devices < 2, reason="NCCL needs a card for each rank")


def describe_machine() -> list[str]:
    """Card, driver, versions and the layouts that are chosen. Raises ``ConfigError`` where CUDA cannot be used."""
    cuda = find_cuda()
    choose(DEVICE, 1, cuda)
    if not ON_CUDA:
        return [f"padless: on the CPU ({cuda})"]
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    layouts = {units: layout_on(TORCH_DEVICE, units)[0] for units in (64, 128, 256, 1024)}
    return [
        f"padless: {describe_device('cuda')}, driver {cuda.driver}, CUDA {torch.version.cuda}",
        f"padless: torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, NCCL {nccl}, layouts {layouts}",
    ]


def skip_without(precision: str) -> None:
    """Skip where the device cannot compute in ``precision``; a CPU computes in fp32 alone here, which is fast."""
    if precision not in (list_precisions(DEVICE) if ON_CUDA else ["fp32"]):
        pytest.skip(f"{precision}: this {DEVICE} device cannot compute in it")
