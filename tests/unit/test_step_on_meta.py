# SPDX-License-Identifier: Apache-2.0
"""A step of training on torch's meta device, which has shapes and no values: no operator waits for the device, and two
recurrent layers, of one call each here, need no more operators than these. What CUDA computes by one kernel for all
parameters (norms) is one operator for each here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.batch import Batch, Layout, Masks, PackedIndex
from harness.config import ModelConfig, OptimConfig
from harness.model import recurrent
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.networks import AnyObjective
from harness.training.optim import WeightAverage, build_optimizer, clip, skip_if_not_finite

META = torch.device("meta")
MAX_KERNELS = 120
"""That of the forecast in docs/gpus.md."""
LENGTHS = torch.tensor([30, 21, 21, 9, 2])
TOKENS, CLASSES, WORDS = int(LENGTHS.sum()), 3, 500
WAITING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "unique", "_unique2", "equal"}
"""Operators whose result, or its shape, the host must know."""
VIEWS = {
    *("t", "transpose", "view", "_unsafe_view", "expand", "slice", "select", "split", "split_with_sizes", "unsqueeze"),
    *("squeeze", "permute", "detach", "alias", "as_strided", "reshape", "unbind", "lift_fresh", "empty", "new_empty"),
    *("empty_like", "promote_types", "_record_function_enter_new", "_record_function_exit"),
}
"""Operators that start no kernel."""


class Operators(TorchDispatchMode):
    """Counts operators, and notes those whose tensors as indices are masks."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.has_mask_as_index = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if tensors and all(tensor.device.type == "cpu" for tensor in tensors):  # as of lengths, for which nothing waits
            return function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            self.has_mask_as_index |= any(index is not None and index.dtype == torch.bool for index in args[1])
        return function(*args, **(kwargs or {}))

    @property
    def num_kernels(self) -> int:
        """Operators that compute."""
        return sum(count for name, count in self.counts.items() if name.rstrip("_") not in VIEWS)


class Recurrence(torch.autograd.Function):
    """Stands for cuDNN's call: one operator forward, and one for the gradients of all inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, size: int, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs, *weights)
        return inputs.new_empty(*inputs.shape[:-1], size).zero_()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, *weights = ctx.saved_tensors
        return torch.zeros_like(inputs), None, *map(torch.empty_like, weights)


def lstm_padded(inputs: torch.Tensor, weights: list[torch.Tensor], states: Any) -> torch.Tensor:
    return Recurrence.apply(inputs, weights[1].shape[1], *weights)


def lstm_packed(data: torch.Tensor, sizes: torch.Tensor, weights: list[torch.Tensor], bidirectional: bool) -> Any:
    outputs = Recurrence.apply(data, (1 + bidirectional) * weights[1].shape[1], *weights)
    state = data.new_empty(1 + bidirectional, int(sizes[0]), weights[1].shape[1])
    return outputs, state


def batch_of(layout: Layout, task: str, size_by_site: Mapping[int, int]) -> Batch:
    """As the loader gives it: masks, index and lengths are on the device."""
    shape = (len(LENGTHS), int(LENGTHS[0])) if layout == "padded" else (TOKENS,)
    on_device, sizes = LENGTHS.to(META), (torch.arange(int(LENGTHS[0]))[:, None] < LENGTHS).sum(1)
    keep = {site: torch.empty(len(LENGTHS), size, device=META) for site, size in size_by_site.items()}
    return Batch(
        torch.empty(shape, dtype=torch.int16, device=META),
        LENGTHS,
        torch.empty(len(LENGTHS), dtype=torch.int64, device=META),
        np.arange(len(LENGTHS)),
        targets=torch.empty(len(LENGTHS), CLASSES, device=META) if task == "soft targets" else None,
        batch_sizes=sizes if layout == "packed" else None,
        sent_lengths=on_device,
        masks=Masks(keep, torch.empty(shape, dtype=torch.bool, device=META)),
        candidates=(torch.empty(20, dtype=torch.int64, device=META), 30) if task == "language model" else None,
        index=PackedIndex.build(on_device, int(LENGTHS[0]), TOKENS),
    )


def objective_of(task: str) -> AnyObjective:
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling="max+mean", dropout=0.5)
    with META:
        if task == "language model":
            return LanguageObjective(LanguageModel(shape, WORDS), candidates=20).to(META)
        members = torch.empty(7, CLASSES, dtype=torch.bool) if task == "several labels" else None
        weights = torch.empty(CLASSES)
        return Objective(Classifier(shape, WORDS, CLASSES), class_weights=weights, label_smoothing=0.1, members=members)


@pytest.mark.parametrize(
    ("task", "layout", "max_kernels"),
    [
        *[("labels", "padded", MAX_KERNELS), ("labels", "packed", 94)],
        *[("several labels", "padded", 112), ("several labels", "packed", 86)],
        *[("soft targets", "padded", 113), ("soft targets", "packed", 87)],
        *[("language model", "padded", 238), ("language model", "packed", 206)],
    ],
)
def test_no_operator_of_a_step_waits(
    task: str, layout: Layout, max_kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, stand_in in (("lstm_padded", lstm_padded), ("lstm_packed", lstm_packed)):
        monkeypatch.setattr(recurrent, name, stand_in)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
    objective = objective_of(task)
    batch = batch_of(layout, task, objective.classifier.size_by_site)
    parameters = [*objective.classifier.parameters()]
    optimizer, average = build_optimizer(objective.classifier, OptimConfig()), WeightAverage(objective.classifier, 0.9)
    with Operators() as operators:
        loss = objective(batch)
        loss.backward(torch.full_like(loss, 0.1))
        norm = clip(parameters, 1.0)
        skip_if_not_finite(optimizer, norm, is_scaled=False)
        optimizer.step()
        average.update(0)
    assert all(parameter.grad is not None for parameter in parameters)
    assert not WAITING & {*operators.counts}
    assert not operators.has_mask_as_index
    assert operators.num_kernels <= max_kernels, operators.counts
