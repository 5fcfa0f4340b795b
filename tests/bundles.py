# SPDX-License-Identifier: Apache-2.0
"""Bundles, runs and exports in milliseconds: small networks with random weights over small made-up vocabularies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from harness.__main__ import main
from harness.config import ModelConfig, to_dict
from harness.inference.bundle import write_bundle
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.model.wide import NONE, WidePart, keys_of
from harness.rundir.bundle_files import BundleInfo, write_info, write_vocabulary
from harness.rundir.layout import BUNDLE, CONFIG
from harness.rundir.results import write_figures
from harness.scores.calibration import Decision
from harness.scores.figures import figures
from preprocessing.base import cli
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset


def write_index(bundle: Path, **changes: Any) -> None:
    """A ``bundle.json`` of two classes that names weights which are not there."""
    facts = {
        **{"weights": "weights-0000000000000000.safetensors", "weights_sha256": "0" * 64},
        **{"model": to_dict(ModelConfig(embedding_dim=4, hidden_size=4)), "vocabulary_size": 9, "vocabulary_hash": "v"},
        **{"text": {}, "text_hash": "t", "labels": ["no", "yes"], "temperature": 1.0, "threshold": 0.5},
        **{"step": 1, "dataset": "d", **changes},
    }
    bundle.mkdir(parents=True, exist_ok=True)
    write_info(bundle, BundleInfo(**facts))


def write_drawn(
    bundle: Path, data: Path, *, labels: list[str] | None = None, language: bool = False, seed: int = 1, **shape: Any
) -> Any:
    """Write the bundle of a network with random weights for a dataset, at step 7; the network.

    It is a classifier, as if it had other classes if ``labels`` are given, or a language model. A wide part has an
    effect. ``decision`` and ``facts`` are those of ``write_bundle``.
    """
    manifest = read_manifest(data)
    manifest = replace(manifest, labels=labels or manifest.labels)
    decision = Decision(0.5, 0.4 if len(manifest.labels) == 2 else 0.5)
    more = {"decision": shape.pop("decision", decision), "facts": shape.pop("facts", {})}
    torch.manual_seed(seed)
    config = ModelConfig(**{"embedding_dim": 4, "hidden_size": 4, **shape})
    model = LanguageModel(config, manifest.vocabulary_size) if language else None
    model = model or Classifier(config, manifest.vocabulary_size, len(manifest.labels))
    if config.wide and not language:
        model.wide.table.normal_()
        model.wide.weights.uniform_(0, 2)
        model.wide.bias.normal_()
        model.wide.share.fill_(0.75)
        if model.wide.owners is not None:
            own_everything(model.wide, torch.arange(manifest.vocabulary_size)[None])
    write_vocabulary(bundle, data)
    write_bundle(bundle, model, manifest, step=7, **more)
    return model.eval()


def own_everything(wide: WidePart, ids: torch.Tensor) -> None:
    """Give each bucket to one of the n-grams of ``ids`` int64 ``[1, time]``, if it has one."""
    keys = keys_of(ids, torch.tensor([ids.shape[1]]), wide.longest)
    keys = keys[keys < NONE]
    wide.owners[wide.bucket_of(keys)] = wide.name_of(keys).to(torch.int32)


def write_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run directory with a bundle below ``root``, beside its dataset."""
    longest = 20 if shape.get("wide") else 60
    write_dataset(root / "data", {"train": 50}, num_classes=num_classes, seed=seed, longest=longest)
    write_drawn(root / "run" / BUNDLE, root / "data", seed=seed, **shape)
    return root / "run"


TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]


def make_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run directory ``root/run`` on the dataset ``root/data``, with figures of a test split."""
    write_dataset(root / "data", {"train": 50, "validation": 30, "test": 10}, num_classes=num_classes, seed=seed)
    manifest = read_manifest(root / "data")
    facts = {"vectors": {"source": "/home/somebody/vectors.npy", "sha256": "0"}}
    write_drawn(root / "run" / BUNDLE, root / "data", seed=seed, facts=facts, **shape)
    config = {"data": str(root / "data"), "epochs": 3, "seed": seed, "optim": {"lr": 0.01}}
    (root / "run" / CONFIG).write_text(yaml.safe_dump(config))
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, 10)
    scores = random.normal(size=10 if num_classes == 2 else (10, num_classes))
    lengths, unknown = np.arange(1, 11), np.zeros(10, np.int64)
    found = figures(
        scores, labels, lengths=lengths, unknown=unknown, names=manifest.labels, decision=Decision(0.5, 0.4)
    )
    head = {"split": "test", "dataset": manifest.fingerprint, "step": 7}
    write_figures(root / "run", "test", head | found | {"rows": 10})
    return root / "run"


def export(*arguments: object) -> int:
    """Exit code of the command."""
    return cli.run(main, ["export", *map(str, arguments)])
