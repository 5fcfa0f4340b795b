# SPDX-License-Identifier: Apache-2.0
"""The network of each task, and the weights of a bundle as tensors, held against the network before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config import CLASSIFIER, LANGUAGE_MODEL, ModelConfig, RunConfig, Task
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.registry import OWNERS, network_shapes
from harness.rundir.bundle_files import INDEX, BundleInfo, read_weights, weights_path
from harness.rundir.checkpoint import check_tensors, read_header
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line
from preprocessing.dataset.shards import Manifest

AnyNetwork = Classifier | LanguageModel
AnyObjective = Objective | LanguageObjective
CODES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32"}
"""What a safetensors file calls the dtypes of weights and of an optimizer's numbers."""
RESTORE = "restore the bundle, or train again"


def build_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network that a configuration describes, for a dataset; weights are drawn from torch's global generator."""
    if config.task == LANGUAGE_MODEL:
        return LanguageModel(config.model, manifest.vocabulary_size)
    return Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))


def task_of(network: AnyNetwork) -> Task:
    """What a network has learned."""
    return LANGUAGE_MODEL if isinstance(network, LanguageModel) else CLASSIFIER


def predictions_of(network: AnyNetwork) -> int:
    """How many tokens a network predicts for each token but one of a text; 0 for a classifier."""
    return network.num_directions if isinstance(network, LanguageModel) else 0


def answers_of(network: AnyNetwork) -> int:
    """How many answers there are among which a prediction is made: labels, or tokens."""
    return network.embedding.num_embeddings if isinstance(network, LanguageModel) else network.num_classes


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor, as files have them."""
    return {name: (CODES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def read_tensors(directory: Path, info: BundleInfo, config: ModelConfig) -> dict[str, torch.Tensor]:
    """All weights of a bundle whose network has this ``config``, finite, with the names and shapes of that network.

    The shapes are compared with the file's header first, so an index that asks for a million features takes no memory.
    Raises ``DataError`` for a damaged file, or one that is not of the network that the index describes.
    """
    path = weights_path(directory, info)
    what = f"{path}: not the weights of the model in {INDEX}"
    found = read_header(path, f"{INDEX} names these weights: {RESTORE}")
    try:
        shapes = network_shapes(config, info.vocabulary_size, len(info.labels), info.task)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    wanted = {name: ("I32" if name == OWNERS else "F32", shape) for name, shape in shapes.items()}
    check_tensors(found, wanted, what)
    try:
        tensors = load(read_weights(directory, info))
    except SafetensorError as error:
        raise DataError(f"{what} ({one_line(error)}); {RESTORE}") from None
    check_finite(tensors, path)
    return tensors


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: object) -> None:
    """Give a network the weights of a file. Raises ``DataError`` that names ``where`` if they are of another one."""
    check_tensors(shapes_of(weights), shapes_of(network.state_dict()), f"{where}: not the weights of this model")
    network.load_state_dict(dict(weights))


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ``DataError`` that names the first tensor with a number that is none, or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise DataError(f"{path}: {name} holds numbers that are not finite: damaged, or of a training that failed")
