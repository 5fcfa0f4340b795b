# SPDX-License-Identifier: Apache-2.0
"""Bundles that a model may begin with, of weights drawn at random: a classifier's, and a language model's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.rundir.bundle_files import write_vocabulary
from preprocessing.dataset.shards import read_manifest

SIZES = {"embedding_dim": 6, "hidden_size": 4}


def make_bundle(data: Path, directory: Path, labels: list[str] | None = None, **model: Any) -> Classifier:
    """Write the bundle of a classifier on a dataset, at step 7, as if it had other classes if ``labels`` are given."""
    torch.manual_seed(1)
    manifest = read_manifest(data)
    manifest = dataclasses.replace(manifest, labels=labels or manifest.labels)
    made = Classifier(ModelConfig(**{**SIZES, **model}), manifest.vocabulary_size, len(manifest.labels))
    if made.wide is not None:
        made.wide.table.uniform_()
        made.wide.weights.uniform_()
    write_vocabulary(directory, data)
    write_bundle(directory, made, manifest, step=7)
    return made


def make_language_model(data: Path, directory: Path, **model: Any) -> dict[str, torch.Tensor]:
    """Write the bundle of a language model on a dataset; its weights."""
    torch.manual_seed(1)
    manifest = read_manifest(data)
    made = LanguageModel(ModelConfig(**{**SIZES, **model}), manifest.vocabulary_size)
    write_vocabulary(directory, data)
    write_bundle(directory, made, manifest, step=7)
    return made.state_dict()
