# SPDX-License-Identifier: Apache-2.0
"""The adversary that a configuration asks for."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.config import RunConfig
from harness.model.adversarial import Adversary
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.vocabulary import Vocabulary


def adversary_of(config: RunConfig, device: torch.device) -> Adversary | None:
    """What moves texts, if the run wants it: it counts in frequencies of the dataset's words."""
    if config.optim.adversarial is None and config.optim.virtual_adversarial is None:
        return None
    counts = Vocabulary.read(Path(config.data, VOCABULARY)).counts
    return Adversary(config.optim, torch.from_numpy(counts).to(device, torch.float64))
