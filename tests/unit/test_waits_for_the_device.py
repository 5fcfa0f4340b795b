# SPDX-License-Identifier: Apache-2.0
"""The heartbeat covers every wait of the host for the device, in a step, a validation or a save; a step starts few
kernels.

Under NCCL a collective is only enqueued, so a lost peer shows where the host next reads from the device. The training
here runs on the meta device, which returns made-up values and records reads without a heartbeat.
"""

from __future__ import annotations

import itertools
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import (
    CheckpointConfig,
    Choice,
    LanguageModelConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrackingConfig,
)
from harness.model import dropout, language
from harness.ranks.distributed import World
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT
from harness.training.assembly import open_run
from harness.training.optim import NonFiniteGuard, build_optimizer, clip
from harness.training.run import Run
from preprocessing.base.randomness import words
from preprocessing.base.split_names import UNLABELLED
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes  # the environment of a run names git's revision
CARD = torch.device("meta")
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "detach", "_local_scalar_dense"}
"""Operators that start no kernel; nor do views."""


class Kernel(torch.autograd.Function):
    """Only the shapes of an LSTM, forward and backward, as cuDNN's kernel looks to autograd."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, directions: int, rows: int, *weights: torch.Tensor) -> Any:
        ctx.save_for_backward(inputs, *weights)
        ctx.set_materialize_grads(False)
        hidden = weights[1].shape[1]
        outputs = inputs.new_empty(*inputs.shape[:-1], directions * hidden)
        return outputs, inputs.new_empty(directions, rows, hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inputs, *weights = ctx.saved_tensors
        assert all(gradient is None or gradient.dtype == inputs.dtype for gradient in gradients)
        return torch.empty_like(inputs), None, None, *map(torch.empty_like, weights)


def in_cudnns_place(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``torch.lstm`` with cuDNN's requirements: one device and one dtype."""
    inputs, second = arguments[:2]
    packed = isinstance(second, torch.Tensor)
    states, weights = (arguments[2], arguments[3]) if packed else (second, arguments[2])
    wanted = (CARD, inputs.dtype)
    assert all((tensor.device, tensor.dtype) == wanted for tensor in (inputs, *states, *weights))
    assert not packed or second.device.type == "cpu", "cuDNN wants batch sizes on the CPU"
    outputs, state = Kernel.apply(inputs, len(weights) // 4, states[0].shape[1], *weights)
    return outputs, state, state


@dataclass
class Questions:
    """The places in our code where the host reads from the device, and those of them without a heartbeat."""

    all: Counter[str] = field(default_factory=Counter)
    unseen: set[str] = field(default_factory=set)

    def note(self) -> None:
        """Record that the host waits for the device here; other threads than the training are ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        ours = [frame for frame in traceback.extract_stack() if "/harness/" in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        self.all[place] += 1
        if not HEARTBEAT.waits:
            self.unseen.add(place)


class Answering(TorchDispatchMode):
    """Simulates a device with values: every other integer is 1, other numbers rise from -1 to 1."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self.questions, self.scalars, self.launches = questions, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self.computed(func, args, kwargs)
        views = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        name = func._schema.name.partition("::")[2]
        leaves = tree_leaves((args, kwargs, found))
        there = any(isinstance(leaf, torch.Tensor) and leaf.device == CARD for leaf in leaves)
        self.launches += there and not views and name not in FREE
        return found

    def computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result, with made-up values where the host reads."""
        there = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.device == CARD]
        target = kwargs.get("device")
        if there and func is torch.ops.aten._local_scalar_dense.default:
            self.questions.note()
            return 0.5 if there[0].is_floating_point() else 1
        if there and target is not None and torch.device(target) != CARD:
            self.questions.note()
            return answer(there[0], kwargs.get("dtype") or there[0].dtype)
        if there and func is torch.ops.aten.copy_.default and args[1].device.type == "cpu" and not args[2:]:
            self.questions.note()  # CUDA blocks the host until it has read pageable memory
        if there and func is torch.ops.aten.copy_.default and args[0].device != CARD:
            if not (args[2:] and args[2]) and not kwargs.get("non_blocking"):
                self.questions.note()
            if not args[0].dim():  # whether a step was skipped: every fourth was
                self.scalars += 1
                return args[0].fill_(self.scalars % 4 == 0)
            return args[0].copy_(answer(args[1], args[0].dtype))
        return func(*args, **kwargs)


def answer(asked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values for a tensor without data."""
    values = torch.linspace(-1, 1, asked.numel(), dtype=torch.float64)
    if not dtype.is_floating_point:
        values = torch.arange(asked.numel()) % 2
    return values.to(dtype).reshape(asked.shape)


class Watched(World):
    """A world of one rank whose waits are watched like those of several."""

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        with HEARTBEAT.waiting(what):
            yield


class Accelerator:
    """The part of accelerate that a trainer uses; ``prepare`` makes DDP, where ranks wait for each other."""

    def __init__(self, questions: Questions) -> None:
        self.device, self.scaler, self.questions = CARD, None, questions

    def prepare(self, objective: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        self.questions.note()
        optimizer.optimizer = optimizer  # type: ignore[attr-defined]
        return objective.to(CARD), optimizer

    def no_sync(self, model: torch.nn.Module) -> Any:
        return nullcontext()

    def unscale_gradients(self) -> None:
        pass


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Questions]:
    questions = Questions()

    class Event:
        def record(self, stream: Any = None) -> None:
            pass

        def synchronize(self) -> None:
            questions.note()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "lstm", in_cudnns_place)
    monkeypatch.setattr(torch, "autocast", lambda device_type, enabled: nullcontext())
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    monkeypatch.setattr(Run, "finish", lambda self: None)  # the best weights are measured when the steps are over
    yield questions
    HEARTBEAT.in_loop, HEARTBEAT.step = False, 0


PLACES = {"trainer.py:__init__", "trainer.py:log", "optim.py:state", "throughput.py:plain"}
"""Where a training waits for the device: in no step."""
MEASURED = {"scoring.py", "bundle.py"}
"""Files that read from it at a validation."""


@contextmanager
def run_of(questions: Questions, root: Path, recurrence: str, **keys: Any) -> Iterator[tuple[Run, Answering]]:
    """A run on the meta device, about to train."""
    write_dataset(root / "data", {"train": 64, "validation": 16, UNLABELLED: 32})
    config = RunConfig(
        data=str(root / "data"),
        run=str(root / "run"),
        device="cpu",
        precision="fp32",
        recurrence=recurrence,
        epochs=2,
        global_batch=8,
        eval_batch=4,
        quiet=True,
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(log_every=3),
        **keys,
    )
    choices = {"device": Choice("meta", ""), "precision": Choice("fp32", ""), "processes": Choice("1", "")}
    session = Session(Accelerator(questions), Watched(), CARD, "fp32", choices)  # type: ignore[arg-type]
    with Answering(questions) as device, open_run(config, session) as run:
        assert run.trainer.model.training
        yield run, device


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize(("task", "recurrence"), [("classifier", "padded"), ("language_model", "packed")])
def test_every_wait_for_the_device_is_seen(
    task: str, recurrence: str, tmp_path: Path, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host computes no masks for a card, and draws the candidates of a step once, in the loader's thread."""
    drawn: list[tuple[threading.Thread, tuple[int, ...]]] = []

    def draw(*key: int, count: int) -> Any:
        drawn.append((threading.current_thread(), key))
        return words(*key, count=count)

    monkeypatch.setattr(language, "words", draw)
    monkeypatch.setattr(dropout, "finalized", None)
    model = ModelConfig(embedding_dim=4, hidden_size=4, num_layers=2, pooling="max+mean", dropout=0.1, word_dropout=0.1)
    sampling = LanguageModelConfig(candidates=4, frequent=0.1)
    keys = {"task": task, "language_model": sampling, "model": model, "optim": OptimConfig(ema=0.9), "micro_batch": 4}
    with run_of(questions, tmp_path, recurrence, **keys) as (run, _):
        run.train()
    assert run.trainer.step == run.trainer.total_steps
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) >= 2
    assert questions.unseen == set()
    assert {place for place in questions.all if place.partition(":")[0] not in MEASURED} == PLACES
    columns, validations = 2 if task == "classifier" else 1, 2  # of four batches each
    assert threading.main_thread() not in {thread for thread, _ in drawn}
    assert len(drawn) == len({key for _, key in drawn}) == (run.trainer.total_steps if task == "language_model" else 0)
    waits = sum(count for place, count in questions.all.items() if place.startswith("scoring.py"))
    assert waits == columns * validations
    with run_of(questions, tmp_path, recurrence, **keys) as (resumed, _):
        assert resumed.trainer.step == run.trainer.step
    assert questions.all["networks.py:load_weights"] > 0
    assert questions.unseen == set()


@pytest.mark.parametrize(("recurrence", "most"), [("packed", 58), ("padded", 71)])
def test_a_step_starts_few_kernels_and_never_waits(
    recurrence: str, most: int, tmp_path: Path, questions: Questions
) -> None:
    """A step of the default recipe, as operators that PyTorch dispatches; some of them are several kernels."""
    model = ModelConfig(embedding_dim=4, hidden_size=4, pooling="max+mean", dropout=0.5, word_dropout=0.15)
    optim, steps = OptimConfig(ema=0.9, label_smoothing=0.05), []
    with run_of(questions, tmp_path, recurrence, model=model, optim=optim) as (run, device):
        (batch,) = itertools.islice(run.trainer.loader.steps(0), 1)
        for _ in range(3):  # of lengths that it has met
            device.launches = 0
            questions.all.clear()
            run.trainer.update(batch)
            steps.append(device.launches)
            run.trainer.step += 1
            assert not questions.all
    cudnn = 2 if recurrence == "packed" else 4  # both passes of one call, or of one for each direction
    adam = 3 * len(run.trainer.optimizer.param_groups)
    assert steps[-1] + cudnn + adam == most


@pytest.mark.parametrize(("norm", "skipped"), [(0.1, False), (50.0, False), (float("inf"), True)])
def test_what_a_gpu_does_with_gradients_is_what_a_cpu_does(norm: float, skipped: bool) -> None:
    """Its branches, on tensors that say that they are not on a CPU."""

    class Elsewhere(torch.Tensor):
        is_cpu = False

    found = []
    for kind in (torch.Tensor, Elsewhere):
        model = torch.nn.Linear(3, 4)
        optimizer = build_optimizer(model, OptimConfig(lr=0.1))
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.5)
            parameter.grad = torch.full_like(parameter, norm / 4).as_subclass(kind)
        guard = NonFiniteGuard(torch.device("cpu"))
        total = clip(optimizer, model.parameters(), 1.0, scaled=False)
        flag = guard.judge(optimizer, total, None)
        assert hasattr(optimizer, "grad_scale") == (kind is Elsewhere)  # else the gradients themselves were divided
        optimizer.step()
        assert (float(total), bool(flag)) == (pytest.approx(norm), skipped)
        found.append([*model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.as_subclass(torch.Tensor), theirs.as_subclass(torch.Tensor))
    assert (float(found[0][0][0, 0].detach()) == 0.5) == skipped
