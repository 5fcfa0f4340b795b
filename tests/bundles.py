# SPDX-License-Identifier: Apache-2.0
"""A bundle in milliseconds: a small network with random weights over a small made-up vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.config import ModelConfig, to_dict
from harness.inference.bundle import write_bundle
from harness.inference.scorer import open_scorer
from harness.model.classifier import Classifier
from harness.rundir.bundle_files import BundleInfo, write_info, write_vocabulary
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset


def write_index(bundle: Path, **changes: Any) -> None:
    """A ``bundle.json`` of two classes that names weights which are not there."""
    facts: dict[str, Any] = {
        **{"weights": "weights-0000000000000000.safetensors", "weights_sha256": "0" * 64},
        **{"model": to_dict(ModelConfig(embedding_dim=4, hidden_size=4)), "vocabulary_size": 9, "vocabulary_hash": "v"},
        **{"text": {}, "text_hash": "t", "labels": ["no", "yes"], "temperature": 1.0, "threshold": 0.5},
        **{"step": 1, "dataset": "d", **changes},
    }
    bundle.mkdir(parents=True, exist_ok=True)
    write_info(bundle, BundleInfo(**facts))


def write_run(root: Path, num_classes: int = 2, *, size: int = 4, seed: int = 1, wide: int = 0) -> Path:
    """A run directory below ``root``, beside its dataset; embedding and layers have this ``size``.

    With a ``wide`` part the weights are large, so that single words decide.
    """
    write_dataset(root / "data", {"train": 50}, num_classes=num_classes, seed=seed, longest=20 if wide else 60)
    return with_weights(root, num_classes, size=size, seed=seed, wide=wide)


def with_weights(root: Path, num_classes: int = 2, *, size: int = 4, seed: int = 1, wide: int = 0) -> Path:
    """A run directory below ``root`` for the dataset that lies there."""
    manifest = read_manifest(root / "data")
    torch.manual_seed(seed)
    config = ModelConfig(embedding_dim=size, hidden_size=size, wide=wide)
    model = Classifier(config, manifest.vocabulary_size, num_classes)
    if model.wide is not None:
        with torch.no_grad():
            model.embedding.weight *= 3
            model.wide.table.normal_()
            model.wide.weights.fill_(1.0)
    bundle = root / "run" / BUNDLE
    bundle.mkdir(parents=True)
    write_vocabulary(bundle, root / "data")
    write_bundle(bundle, model, manifest, step=7, decision=Decision(0.5, 0.4 if num_classes == 2 else 0.5))
    return root / "run"


def predicted(run: Path, texts: list[str]) -> dict[str, Any]:
    """The columns that a run predicts for some texts."""
    scorer = open_scorer(run)
    return scorer.predict(scorer.encode(texts))
