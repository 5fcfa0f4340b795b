# SPDX-License-Identifier: Apache-2.0
"""Small runs to export: a bundle with random weights, its dataset beside it, figures as an evaluation leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from harness.__main__ import main
from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.model.classifier import Classifier
from harness.model.wide import NONE, WidePart, keys_of
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.layout import BUNDLE, CONFIG
from harness.rundir.results import write_figures
from harness.scores.calibration import Decision
from harness.scores.figures import figures
from preprocessing.base import cli
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset

TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]


def own_everything(wide: WidePart, ids: torch.Tensor) -> None:
    """Give each bucket to one of the n-grams of ``ids`` int64 ``[1, time]``, if it has one."""
    keys = keys_of(ids, torch.tensor([ids.shape[1]]), wide.longest)
    keys = keys[keys < NONE]
    assert wide.owners is not None
    wide.owners[wide.bucket_of(keys)] = wide.name_of(keys).to(torch.int32)


def make_model(vocabulary_size: int, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Classifier:
    """A network whose wide part, if it has one, has an effect."""
    torch.manual_seed(seed)
    model = Classifier(ModelConfig(**{"embedding_dim": 4, "hidden_size": 4, **shape}), vocabulary_size, num_classes)
    if model.wide is not None:
        model.wide.table.normal_()
        model.wide.weights.uniform_(0, 2)
        model.wide.bias.normal_()
        model.wide.share.fill_(0.75)
        if model.wide.owners is not None:
            own_everything(model.wide, torch.arange(vocabulary_size)[None])
    return model.eval()


def make_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run directory ``root/run`` on the dataset ``root/data``, with figures of a test split."""
    write_dataset(root / "data", {"train": 50, "validation": 30, "test": 10}, num_classes=num_classes, seed=seed)
    manifest = read_manifest(root / "data")
    bundle = root / "run" / BUNDLE
    bundle.mkdir(parents=True)
    write_vocabulary(bundle, root / "data")
    decision = Decision(0.5, 0.4 if num_classes == 2 else 0.5)
    model = make_model(manifest.vocabulary_size, num_classes, seed=seed, **shape)
    facts = {"vectors": {"source": "/home/somebody/vectors.npy", "sha256": "0"}}
    write_bundle(bundle, model, manifest, step=7, decision=decision, facts=facts)
    config = {"data": str(root / "data"), "epochs": 3, "seed": seed, "optim": {"lr": 0.01}}
    (root / "run" / CONFIG).write_text(yaml.safe_dump(config))
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, 10)
    scores = random.normal(size=10 if num_classes == 2 else (10, num_classes))
    lengths, unknown = np.arange(1, 11), np.zeros(10, np.int64)
    found = figures(scores, labels, lengths=lengths, unknown=unknown, names=manifest.labels, decision=decision)
    head = {"split": "test", "dataset": manifest.fingerprint, "step": 7}
    write_figures(root / "run", "test", head | found | {"rows": 10})
    return root / "run"


def export(*arguments: object) -> int:
    """Exit code of the command."""
    return cli.run(main, ["export", *map(str, arguments)])
