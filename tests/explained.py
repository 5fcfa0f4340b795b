# SPDX-License-Identifier: Apache-2.0
"""A run that ``explain`` is asked about."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.model.classifier import Classifier
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset

TEXT = "W1 <b>superb</b>, dull nowhere; w1 &amp; superb!"


def make_run(root: Path, num_classes: int) -> Path:
    """A run directory whose model has a wide part."""
    write_dataset(root / "data", {"train": 50}, num_classes=num_classes, longest=20)
    manifest = read_manifest(root / "data")
    torch.manual_seed(1)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=4, wide=1 << 12), manifest.vocabulary_size, num_classes)
    assert model.wide is not None
    with torch.no_grad():
        model.embedding.weight *= 3
        model.wide.table.normal_()
        model.wide.weights.fill_(1.0)
    bundle = root / "run" / BUNDLE
    bundle.mkdir(parents=True)
    write_vocabulary(bundle, root / "data")
    write_bundle(bundle, model, manifest, step=7, decision=Decision(0.5, 0.4 if num_classes == 2 else 0.5))
    return root / "run"
