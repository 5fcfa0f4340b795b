# SPDX-License-Identifier: Apache-2.0
"""The network of each task; reading the weights of a bundle, checked against the network's shapes first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load

from harness.config import LANGUAGE_MODEL, RunConfig
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.registry import OWNERS, network_shapes
from harness.rundir.bundle_files import INDEX, BundleInfo, read_named
from harness.rundir.checkpoint import check_tensors, read_header
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line
from preprocessing.dataset.shards import Manifest

AnyNetwork = Classifier | LanguageModel
AnyObjective = Objective | LanguageObjective
RESTORE = "restore the bundle, or train again"


def build_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network of a configuration for a dataset; weights are drawn from torch's global generator."""
    if config.task == LANGUAGE_MODEL:
        return LanguageModel(config.model, manifest.vocabulary_size)
    return Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))


def read_tensors(directory: Path, info: BundleInfo) -> dict[str, torch.Tensor]:
    """Read all weights of a bundle; checks that they have the names and shapes of its network.

    The file's header is checked first, so a wrong index with huge sizes allocates no memory. Raises ``DataError`` if
    the file is damaged or belongs to another network than the index describes.
    """
    path = directory / info.weights
    found = read_header(path, f"{INDEX} names these weights: {RESTORE}")
    try:
        shapes = network_shapes(info.model, info.vocabulary_size, len(info.labels), info.task)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    wanted = {name: ("I32" if name == OWNERS else "F32", shape) for name, shape in shapes.items()}
    check_tensors(found, wanted, f"{path}: not the weights of the model in {INDEX}")
    tensors: dict[str, torch.Tensor] = load(read_named(path, info.weights_sha256, INDEX))
    return tensors


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Load weights into a network. Raises ``DataError`` that names ``where`` if they belong to another one."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(f"{where}: not the weights of this model ({one_line(error)})") from None
