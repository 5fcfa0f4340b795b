# SPDX-License-Identifier: Apache-2.0
"""The network of each task; reading the weights of a bundle, checked against the network's shapes first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config import CLASSIFIER, LANGUAGE_MODEL, RunConfig, Task
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
CODES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32"}
"""Names of dtypes in safetensors files."""
RESTORE = "restore the bundle, or train again"


def build_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network of a configuration for a dataset; weights are drawn from torch's global generator."""
    if config.task == LANGUAGE_MODEL:
        return LanguageModel(config.model, manifest.vocabulary_size)
    return Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))


def task_of(network: AnyNetwork) -> Task:
    """The task of a network."""
    return LANGUAGE_MODEL if isinstance(network, LanguageModel) else CLASSIFIER


def predictions_of(network: AnyNetwork) -> int:
    """Predictions per token, for all tokens of a text but one; 0 for a classifier."""
    return network.num_directions if isinstance(network, LanguageModel) else 0


def answers_of(network: AnyNetwork) -> int:
    """Number of possible predictions: labels, or tokens."""
    return network.embedding.num_embeddings if isinstance(network, LanguageModel) else network.num_classes


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor, with the names of safetensors files."""
    return {name: (CODES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def read_tensors(directory: Path, info: BundleInfo) -> dict[str, torch.Tensor]:
    """Read all weights of a bundle; checks that they are finite and have the names and shapes of its network.

    The file's header is checked first, so a wrong index with huge sizes allocates no memory. Raises ``DataError`` if
    the file is damaged or belongs to another network than the index describes.
    """
    path = directory / info.weights
    what = f"{path}: not the weights of the model in {INDEX}"
    found = read_header(path, f"{INDEX} names these weights: {RESTORE}")
    try:
        shapes = network_shapes(info.model, info.vocabulary_size, len(info.labels), info.task)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    wanted = {name: ("I32" if name == OWNERS else "F32", shape) for name, shape in shapes.items()}
    check_tensors(found, wanted, what)
    try:
        tensors = load(read_named(path, info.weights_sha256, INDEX))
    except SafetensorError as error:
        raise DataError(f"{what} ({one_line(error)}); {RESTORE}") from None
    check_finite(tensors, path)
    return tensors


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Load weights into a network. Raises ``DataError`` that names ``where`` if they belong to another one."""
    check_tensors(shapes_of(weights), shapes_of(network.state_dict()), f"{where}: not the weights of this model")
    network.load_state_dict(dict(weights))


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ``DataError`` that names the first tensor with a NaN or infinite number."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise DataError(f"{path}: {name} holds numbers that are not finite: damaged, or of a training that failed")
