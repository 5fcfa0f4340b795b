# SPDX-License-Identifier: Apache-2.0
"""A bundle in milliseconds: a small network with random weights over a small made-up vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.config import ModelConfig, to_dict
from harness.inference.bundle import write_bundle
from harness.inference.scorer import open_scorer
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.model.wide import NONE, WidePart, keys_of
from harness.rundir.bundle_files import BundleInfo, write_info, write_vocabulary
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision
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
    more = {"decision": shape.pop("decision", decision), **shape.pop("facts", {})}
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


def predicted(run: Path, texts: list[str]) -> dict[str, Any]:
    """The columns that a run predicts for some texts."""
    scorer = open_scorer(run)
    return scorer.predict(scorer.encode(texts))
