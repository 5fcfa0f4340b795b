# SPDX-License-Identifier: Apache-2.0
"""The weights of a bundle as tensors, held against the network that its index describes before they are read.

A network that is not built yet has names and shapes already: it is laid out on torch's ``meta`` device, where tensors
have no memory. So an index that asks for a million features costs nothing, and its file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from harness.config import ModelConfig
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.model.registry import check_model
from harness.model.size import language_model_parameters, num_parameters
from harness.rundir.bundle_files import INDEX, BundleInfo, read_weights, weights_path
from harness.rundir.tensor_files import BYTES, Tensors, check_tensors, read_header
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line

CODES = {
    **{torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    torch.bool: "BOOL",
}
"""What a safetensors file calls a dtype."""
RESTORE = "restore the bundle, or train again"


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor, as files have them."""
    return {name: (CODES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


def outlined(info: BundleInfo, config: ModelConfig) -> Classifier | LanguageModel:
    """The network of a bundle, without memory."""
    with torch.device("meta"):
        if info.task == LANGUAGE_MODEL:
            return LanguageModel(config, info.vocabulary_size)
        return Classifier(config, info.vocabulary_size, len(info.labels))


def read_tensors(directory: Path, info: BundleInfo, config: ModelConfig) -> dict[str, torch.Tensor]:
    """All weights of a bundle whose network has this ``config``, finite, with the names and shapes of that network.

    Raises ``DataError`` for a damaged file, or one that is not of the network that the index describes.
    """
    path = weights_path(directory, info)
    what = f"{path}: not the weights of the model in {INDEX}"
    found = read_header(path, f"{INDEX} names these weights: {RESTORE}")
    try:
        check_model(config)
    except ConfigError as error:
        raise DataError(f"{directory / INDEX}: {error}; {RESTORE}") from None
    if numbers(found) < smallest(info, config):  # before the layers of the network are even counted
        raise DataError(f"{what}: it has too few bytes; {RESTORE}")
    check_tensors(found, shapes_of(outlined(info, config).state_dict()), what)
    try:
        tensors = load(read_weights(directory, info))
    except SafetensorError as error:
        raise DataError(f"{what} ({one_line(error)}); {RESTORE}") from None
    check_finite(tensors, path)
    return tensors


def numbers(found: Tensors) -> int:
    """How many numbers a file has."""
    return sum(entry.bytes // BYTES[entry.dtype] for entry in found.values())


def smallest(info: BundleInfo, config: ModelConfig) -> int:
    """How many numbers the network of a bundle has at least."""
    if info.task == LANGUAGE_MODEL:
        return language_model_parameters(config, info.vocabulary_size)
    return num_parameters(config, info.vocabulary_size, len(info.labels))


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise ``DataError`` that names the first tensor with a number that is none, or infinite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise DataError(f"{path}: {name} holds numbers that are not finite: damaged, or of a training that failed")
