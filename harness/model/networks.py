# SPDX-License-Identifier: Apache-2.0
"""The network of each task; reading the weights of a bundle, checked against the network's shapes."""

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
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line, shown
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
    """Read all weights of a bundle; checks that they have the names, types and shapes of its network.

    Raises ``DataError`` if the file is damaged or belongs to another network than the index describes.
    """
    path = directory / info.weights
    try:
        shapes = network_shapes(info.model, info.vocabulary_size, len(info.labels), info.task)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    data = read_named(path, info.weights_sha256, INDEX)
    try:
        tensors: dict[str, torch.Tensor] = load(data)
    except Exception as error:  # of many kinds, where somebody wrote the header by hand
        raise DataError(f"{path}: not a safetensors file ({one_line(error)}); {RESTORE}") from None
    wanted = {name: (torch.int32 if name == OWNERS else torch.float32, shape) for name, shape in shapes.items()}
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    for name in (*wanted, *found):
        if found.get(name) != wanted.get(name):
            what = f"{shown(name)} is {found.get(name)} where {wanted.get(name)} is expected"
            raise DataError(f"{path}: not the weights of the model in {INDEX} ({what})")
    return tensors


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Load weights into a network. Raises ``DataError`` that names ``where`` if they belong to another one."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(f"{where}: not the weights of this model ({one_line(error)})") from None
