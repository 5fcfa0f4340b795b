# SPDX-License-Identifier: Apache-2.0
"""The network of each task, also with the weights of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load

from harness.config import LANGUAGE_MODEL, ModelConfig, RunConfig, Task
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.registry import num_outputs, num_parameters
from harness.rundir.bundle_files import INDEX, BundleInfo, read_named
from padless.core.errors import ConfigError, DataError
from padless.core.untrusted import one_line
from preprocessing.dataset.shards import Manifest

AnyNetwork = Classifier | LanguageModel
AnyObjective = Objective | LanguageObjective
RESTORE = "restore the bundle, or train again"


def build_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network of a configuration for a dataset; weights are drawn from torch's global generator."""
    return network_of(config.task, config.model, manifest.vocabulary_size, num_outputs(manifest))


def network_of(task: Task, config: ModelConfig, vocabulary_size: int, outputs: int) -> AnyNetwork:
    """The network of a task; see ``build_network``."""
    if task == LANGUAGE_MODEL:
        return LanguageModel(config, vocabulary_size)
    return Classifier(config, vocabulary_size, outputs)


def read_network(directory: Path, info: BundleInfo) -> AnyNetwork:
    """The network of a bundle with its weights, on the CPU.

    A network with more parameters than the file has is not built, so a wrong index with huge sizes allocates no memory.
    Raises ``DataError`` if the file is damaged or does not fit the network that the index describes.
    """
    path, sizes = directory / info.weights, (info.vocabulary_size, num_outputs(info))
    try:
        parameters = num_parameters(info.model, *sizes, info.task)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    data = read_named(path, info.weights_sha256, INDEX)
    try:
        weights: dict[str, torch.Tensor] = load(data)
    except Exception as error:  # of many kinds, where somebody wrote the header by hand
        raise DataError(f"{path}: not a safetensors file ({one_line(error)}); {RESTORE}") from None
    if parameters > sum(tensor.numel() for tensor in weights.values()):
        raise DataError(f"{path}: not the weights of the model in {INDEX}; {RESTORE}")
    with torch.random.fork_rng(devices=[]):
        network = network_of(info.task, info.model, *sizes)
    load_weights(network, weights, path)
    return network


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], origin: object) -> None:
    """Load weights into a network. Raises ``DataError`` that names ``origin`` if they belong to another one."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DataError(f"{origin}: not the weights of this model ({one_line(error)})") from None
