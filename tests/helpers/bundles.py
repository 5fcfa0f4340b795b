# SPDX-License-Identifier: Apache-2.0
"""Bundles, runs and exports in milliseconds: small networks with random weights over small made-up vocabularies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.metrics.calibration import Decision
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.model.linear_part import NONE, WidePart
from harness.model.registry import num_outputs
from harness.rundir.bundle_files import BundleInfo, write_info, write_vocabulary
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.layout import BUNDLE
from padless.core import atomic
from preprocessing.dataset.shards import read_manifest
from tests.helpers.commands import read_json
from tests.helpers.datasets import write_dataset

STEP = 150
"""Of every bundle that is made up."""


def write_index(bundle: Path, **changes: Any) -> None:
    """A ``bundle.json`` of two classes that names weights which are not there."""
    facts = {
        **{"weights": "weights-0000000000000000.safetensors", "weights_sha256": "0" * 64},
        **{"model": ModelConfig(embedding_dim=4, hidden_size=4), "vocabulary_size": 9, "vocabulary_hash": "v"},
        **{"text": {}, "text_hash": "t", "labels": ["no", "yes"], "temperature": 1.0, "threshold": 0.5},
        **{"step": STEP, "dataset": "d", **changes},
    }
    bundle.mkdir(parents=True, exist_ok=True)
    write_info(bundle, BundleInfo(**facts))


def write_drawn(
    bundle: Path, data: Path, *, labels: list[str] | None = None, language: bool = False, seed: int = 1, **shape: Any
) -> Any:
    """Write the bundle of a network with random weights for a dataset, at ``STEP``; the network.

    It is a classifier, as if it had other classes if ``labels`` are given, or a language model. A linear part has an
    effect. ``decision`` and ``facts`` are those of ``write_bundle``.
    """
    manifest = read_manifest(data)
    manifest = replace(manifest, labels=labels or manifest.labels)
    decision = Decision(0.5, 0.4 if len(manifest.labels) == 2 else 0.5)
    decision = Decision(0.5, thresholds=(0.4, 0.55)) if manifest.has_label_sets else decision
    more = {"decision": shape.pop("decision", decision), **shape.pop("facts", {})}
    torch.manual_seed(seed)
    config = ModelConfig(**{"embedding_dim": 4, "hidden_size": 4, **shape})
    model = LanguageModel(config, manifest.vocabulary_size) if language else None
    model = model or Classifier(config, manifest.vocabulary_size, num_outputs(manifest))
    if config.wide and not language:
        model.wide.table.normal_()
        model.wide.weights.uniform_(0, 2)
        model.wide.bias.normal_()
        model.wide.share.fill_(0.75)
        if model.wide.owners is not None:
            own_everything(model.wide, torch.arange(manifest.vocabulary_size)[None])
    write_vocabulary(bundle, data)
    write_bundle(bundle, model, manifest, step=STEP, **more)
    return model.eval()


def own_everything(wide: WidePart, ids: torch.Tensor) -> None:
    """Give each bucket to one of the n-grams of ``ids`` int64 ``[1, time]``, if it has one."""
    keys = wide.keys(ids, torch.tensor([ids.shape[1]]))
    keys = keys[keys < NONE]
    wide.owners[wide.bucket_of(keys)] = wide.name_of(keys).to(torch.int32)


def write_run(
    root: Path, num_classes: int = 2, *, seed: int = 1, label_sets: list[list[int]] | None = None, **shape: Any
) -> Path:
    """A run directory with a bundle below ``root``, beside its dataset."""
    longest = 20 if shape.get("wide") else 60
    options = {"num_classes": num_classes, "label_sets": label_sets, "seed": seed, "longest": longest}
    write_dataset(root / "data", {"train": 50}, **options)
    write_drawn(root / "run" / BUNDLE, root / "data", seed=seed, **shape)
    return root / "run"


def reseal(path: Path, **values: Any) -> None:
    """Write a sealed file of JSON again, with other values and a seal that agrees."""
    content = read_json(path) | values
    del content[SEAL]
    atomic.write_json(path, {**content, SEAL: seal_of(content)})


def shared_run(*num_classes: int, **shape: Any) -> Any:
    """A fixture: the run that the tests of a module share, or one of each number of classes."""

    @pytest.fixture(scope="module", params=num_classes or (2,))
    def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_run(tmp_path_factory.mktemp("shared"), request.param, **shape)

    return run
