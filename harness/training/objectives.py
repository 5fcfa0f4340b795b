# SPDX-License-Identifier: Apache-2.0
"""The objective of each task, as a configuration describes it."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.config import RunConfig
from harness.model.adversarial import Adversary
from harness.model.classifier import Objective
from harness.model.language import LanguageModel, LanguageObjective, Targets
from harness.model.networks import AnyNetwork, AnyObjective
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.vocabulary import Vocabulary


def build_objective(
    config: RunConfig, network: AnyNetwork, manifest: Manifest, dtype: torch.dtype, device: torch.device
) -> AnyObjective:
    """The loss around a network that lies on its device; recurrent layers compute in ``dtype``."""
    if isinstance(network, LanguageModel):
        counts = Vocabulary.read(Path(config.data, VOCABULARY)).counts
        targets = Targets.of(config.language_model, counts, device)
        candidates = config.language_model.candidates
        return LanguageObjective(
            network, candidates=candidates, seed=config.seed, recurrent_dtype=dtype, targets=targets
        )
    weights = [config.optim.class_weights.get(label, 1.0) for label in manifest.labels]
    return Objective(
        network,
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
        wide_smoothing=config.optim.wide_smoothing,
        class_weights=torch.tensor(weights, device=device) if config.optim.class_weights else None,
        recurrent_dtype=dtype,
        soft_weight=config.self_training.weight,
        adversary=adversary_of(config, device),
    )


def adversary_of(config: RunConfig, device: torch.device) -> Adversary | None:
    """What moves texts, if the run wants it: it counts in frequencies of the dataset's words."""
    if config.optim.adversarial is None and config.optim.virtual_adversarial is None:
        return None
    counts = Vocabulary.read(Path(config.data, VOCABULARY)).counts
    return Adversary(config.optim, torch.from_numpy(counts).to(device, torch.float64))


def start_at_frequencies(config: RunConfig, network: AnyNetwork) -> None:
    """Let a language model begin with what its dataset's vocabulary knows of each token's frequency."""
    if isinstance(network, LanguageModel):
        network.start_bias(Vocabulary.read(Path(config.data, VOCABULARY)).counts)
