# SPDX-License-Identifier: Apache-2.0
"""What a training step asks of a GPU, watched without one: the meta device stands in for it.

A tensor of the meta device has a shape and a dtype but no values. Reading one is as impossible as reading a GPU's
tensor without a wait is, and every operation passes a ``TorchDispatchMode`` that sees on which devices it works.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.batch import Batch, Layout, StepBatch, send
from harness.config import ModelConfig
from harness.model.classifier import Adversary, Classifier, Objective
from harness.model.dropout import Masks
from harness.model.language import LanguageModel, LanguageObjective
from harness.ranks.distributed import World
from harness.training.optim import WeightAverage
from harness.training.wide import WideDescent

pytestmark = pytest.mark.thorough

CARD = torch.device("meta")
LENGTHS = torch.tensor([9, 7, 7, 4, 2])
VALUES_NEEDED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""What torch calls operations whose result the host cannot know without reading values."""


class WaitError(AssertionError):
    """The host would wait for the card here, or a tensor is not where it belongs."""


class Watch(TorchDispatchMode):
    """Raises ``WaitError`` where a step would read a value, mix devices, or copy other than by ``send``."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in tensors if tensor.device == CARD]
        here = [tensor for tensor in tensors if tensor.device != CARD]
        target = kwargs.get("device")
        if there and set(func.tags) & VALUES_NEEDED and not size_is_known(func, args, kwargs):
            raise WaitError(f"{func}: reads a value of the card")
        if there and target is not None and torch.device(target) != CARD:
            raise WaitError(f"{func}: copies from the card")
        arrives = bool(here) and target is not None and torch.device(target) == CARD
        if func is torch.ops.aten.copy_.default and there and here:
            if args[0].device != CARD:
                raise WaitError(f"{func}: copies from the card")
            arrives = True
        if arrives:
            self.copies += 1
            if not called_by_send(sys._getframe()):
                raise WaitError(f"{func}: copies from pageable memory")
        elif there and any(tensor.dim() for tensor in here):
            raise WaitError(f"{func}: works on {sorted({str(tensor.device) for tensor in tensors})} at once")
        return func(*args, **kwargs)


def size_is_known(func: Any, args: Any, kwargs: Any) -> bool:
    """Two operations read values only in some uses: an index by a mask, and repeats whose sum nobody says."""
    if func is torch.ops.aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is not None
    return func is torch.ops.aten.index.Tensor and all(index is None or index.dtype != torch.bool for index in args[1])


def called_by_send(frame: FrameType | None) -> bool:
    """``send`` copies by way of pinned memory where there is a card."""
    while frame is not None:
        if frame.f_code is send.__code__:
            return True
        frame = frame.f_back
    return False


class Kernel(torch.autograd.Function):
    """An LSTM's shapes, forward and backward, and nothing else: what cuDNN is to autograd."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, directions: int, rows: int, *weights: torch.Tensor) -> Any:
        ctx.save_for_backward(inputs, *weights)
        hidden = weights[1].shape[1]
        outputs = inputs.new_empty(*inputs.shape[:-1], directions * hidden)
        return outputs, inputs.new_empty(directions, rows, hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, *weights = ctx.saved_tensors
        assert all(gradient.dtype == inputs.dtype for gradient in gradients)
        return torch.empty_like(inputs), None, None, *map(torch.empty_like, weights)


def in_cudnns_place(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``torch.lstm``, which asks for what cuDNN does: one device, one dtype, weights of a call in one buffer."""
    inputs, second = arguments[:2]
    packed = isinstance(second, torch.Tensor)
    states, weights = (arguments[2], arguments[3]) if packed else (second, arguments[2])
    wanted = (CARD, inputs.dtype)
    assert all((tensor.device, tensor.dtype) == wanted for tensor in (inputs, *states, *weights))
    if packed:
        assert second.device.type == "cpu", "cuDNN wants batch sizes on the CPU"
    if not packed or inputs.dtype != torch.float32:  # nn.LSTM flattens its own fp32 weights, but not on this device
        check_one_buffer(weights)
    outputs, state = Kernel.apply(inputs, len(weights) // 4, states[0].shape[1], *weights)
    return outputs, state, state


def check_one_buffer(weights: list[torch.Tensor]) -> None:
    """cuDNN takes weights without a copy if they fill one buffer from its start: matrices first, then biases."""
    place, storage = 0, weights[0].untyped_storage()
    for weight in sorted(weights, key=lambda weight: -weight.dim()):
        whole = weight.is_contiguous() and weight.untyped_storage()._cdata == storage._cdata
        if not whole or weight.storage_offset() != place:
            raise WaitError("torch.lstm: the weights are no buffer of their own and are copied at each call")
        place += weight.numel()
    if place * weights[0].itemsize != storage.nbytes():
        raise WaitError("torch.lstm: the weights are part of a larger buffer and are copied at each call")


def make_batch(layout: Layout) -> Batch:
    """Rows as a loader hands them over: ids, labels and lengths on the card, the rest on the CPU."""
    rows, time = len(LENGTHS), int(LENGTHS[0])
    labels, lengths = (torch.empty(rows, dtype=torch.int64, device=CARD) for _ in range(2))
    if layout == "padded":
        ids, sizes = torch.empty((rows, time), dtype=torch.int16, device=CARD), None
    else:
        ids = torch.empty(int(LENGTHS.sum()), dtype=torch.int16, device=CARD)
        sizes = (torch.arange(time)[:, None] < LENGTHS).sum(1)
    return Batch(ids, LENGTHS, labels, np.arange(rows), sizes, lengths)


def train_a_step(
    layout: Layout,
    config: ModelConfig,
    dtype: torch.dtype | None = None,
    batch: Batch | None = None,
    adversary: Adversary | None = None,
) -> tuple[Objective, Watch]:
    """Everything of a step that is ours, under watch: masks, model, pooling, loss, gradients, clipping, average."""
    objective = Objective(
        Classifier(config, 40, 3).to(CARD),
        label_smoothing=0.1,
        class_weights=torch.empty(3, device=CARD),
        recurrent_dtype=dtype,
        adversary=adversary,
    )
    average, skip = WeightAverage(objective.classifier, 0.9), torch.zeros((), device=CARD)
    batch = batch or make_batch(layout)
    objective.classifier.masks(0, 3, batch)  # a step before this one has sent what stays on the card
    with Watch() as watch:
        loss = objective(batch, 4)
        (loss * (2 / 64)).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        average.update(4, skip)
        with average.swapped():
            pass
    return objective, watch


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "lstm", in_cudnns_place)
    monkeypatch.setattr(torch, "autocast", lambda device_type, enabled: nullcontext())  # the meta device has none


def shape(pooling: str = "max+mean", depth: int = 2, drops: bool = True, both: bool = True) -> ModelConfig:
    chances = {"dropout": 0.3, "word_dropout": 0.1} if drops else {}
    return ModelConfig(embedding_dim=6, hidden_size=5, num_layers=depth, pooling=pooling, bidirectional=both, **chances)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_no_step_makes_the_host_wait(layout: Layout, dtype: torch.dtype | None) -> None:
    cases = itertools.product(("last", "max+mean"), (1, 2), (False, True), (False, True))
    for pooling, depth, drops, both in cases:
        objective, watch = train_a_step(layout, shape(pooling, depth, drops, both), dtype)
        assert watch.copies == (1 if drops else 0)  # the keys of the masks
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None, name
            assert (parameter.grad.device, parameter.grad.dtype) == (CARD, torch.float32), name


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_moved_texts_do_not_make_the_host_wait(layout: Layout) -> None:
    adversary = Adversary(1.0, torch.empty(40, device=CARD))
    objective, watch = train_a_step(layout, shape(), torch.bfloat16, adversary=adversary)
    assert watch.copies == 1  # the keys of random numbers
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.device, parameter.grad.dtype) == (CARD, torch.float32), name


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_no_step_of_a_pretraining_makes_the_host_wait(layout: Layout, dtype: torch.dtype | None) -> None:
    for drops, both in itertools.product((False, True), (False, True)):
        model = LanguageModel(shape(depth=1, drops=drops, both=both), 40)
        objective = LanguageObjective(model, candidates=7, recurrent_dtype=dtype).to(CARD)
        batch = make_batch(layout)
        model.masks(0, 3, batch)
        with Watch() as watch:
            loss = objective(batch, 4)
            (loss * (2 / 64)).backward()
        # The keys of the masks, the candidates, and whose token each one is where rows are packed.
        assert watch.copies == drops + 1 + (layout == "packed")
        for name, parameter in objective.named_parameters():
            assert parameter.grad is not None, name
            assert (parameter.grad.device, parameter.grad.dtype) == (CARD, torch.float32), name


@pytest.fixture
def group() -> Iterator[None]:
    """Three ranks of which two are torch's pretence: collectives are called as always and bring nothing."""
    dist.init_process_group("fake", rank=0, world_size=3, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(("longest", "tail", "classes"), [(2, 0, 2), (4, 3, 3)])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_wide_part_does_not_make_the_host_wait(
    group: None, layout: Layout, world_size: int, longest: int, tail: int, classes: int
) -> None:
    config = ModelConfig(embedding_dim=6, hidden_size=5, wide=64, wide_ngrams=longest, wide_tail=tail)
    objective = Objective(Classifier(config, 40, classes).to(CARD), label_smoothing=0.1)
    assert objective.classifier.wide is not None
    descent = WideDescent(objective.classifier.wide, World(0, world_size))
    batches = [make_batch(layout) for _ in range(2)]
    step = StepBatch(0, 0, batches, global_rows=2 * len(LENGTHS) * world_size)
    step.longest = int(LENGTHS[0]) + 1  # another rank's
    with Watch() as watch:
        touched = []
        for batch in batches:
            objective(batch, 4)
            assert objective.table_gradient is not None
            touched.append(objective.table_gradient)
        descent.step(touched, step, 2.0, torch.empty((), device=CARD))
    assert watch.copies == 0


def test_the_check_sees_a_value_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    features = Masks.features

    def nosy(self: Masks, *arguments: Any) -> torch.Tensor:
        mask = features(self, *arguments)
        assert mask.sum().item() > 0
        return mask

    monkeypatch.setattr(Masks, "features", nosy)
    with pytest.raises(WaitError, match="reads a value"):
        train_a_step("packed", shape())
