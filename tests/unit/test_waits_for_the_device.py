# SPDX-License-Identifier: Apache-2.0
"""The heartbeat covers every wait of the host for the device, in a step, a validation or a save.

Under NCCL a collective is only enqueued, so a lost peer shows where the host next reads from the device. The training
here runs on the meta device, which returns made-up values and records reads without a heartbeat.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import CheckpointConfig, LanguageModelConfig, ModelConfig, OptimConfig, RunConfig, TrackingConfig
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT
from harness.training.assembly import open_run
from harness.training.run import Run
from preprocessing.base.split_names import UNLABELLED
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes  # the environment of a run names git's revision
CARD = torch.device("meta")


class Kernel(torch.autograd.Function):
    """Only the shapes of an LSTM, forward and backward, as cuDNN's kernel looks to autograd."""

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

    all: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def note(self) -> None:
        """Record that the host waits for the device here; other threads than the training are ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        ours = [frame for frame in traceback.extract_stack() if "/harness/" in frame.filename]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
        self.all.add(place)
        if not HEARTBEAT.waits:
            self.unseen.add(place)


class Answering(TorchDispatchMode):
    """Simulates a device with values: every other integer is 1, other numbers rise from -1 to 1."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self.questions, self.scalars = questions, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.device == CARD]
        target = kwargs.get("device")
        if there and func is torch.ops.aten._local_scalar_dense.default:
            self.questions.note()
            return 0.5 if there[0].is_floating_point() else 1
        if there and target is not None and torch.device(target) != CARD:
            self.questions.note()
            return answer(there[0], kwargs.get("dtype") or there[0].dtype)
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


PLACES = {"trainer.py:__init__", "trainer.py:log", "optim.py:_act", "throughput.py:plain"}
"""Where a training waits for the device: in no step."""
MEASURED = {"scoring.py", "bundle.py"}
"""Files that read from it at a validation."""


@pytest.mark.parametrize(("task", "recurrence"), [("classifier", "padded"), ("language_model", "packed")])
def test_every_wait_for_the_device_is_seen(task: str, recurrence: str, tmp_path: Path, questions: Questions) -> None:
    write_dataset(tmp_path / "data", {"train": 64, "validation": 16, UNLABELLED: 32})
    config = RunConfig(
        data=str(tmp_path / "data"),
        run=str(tmp_path / "run"),
        device="cpu",
        precision="fp32",
        task=task,
        recurrence=recurrence,
        epochs=2,
        language_model=LanguageModelConfig(candidates=4, frequent=0.1),
        global_batch=8,
        quiet=True,
        model=ModelConfig(
            embedding_dim=4, hidden_size=4, num_layers=2, pooling="max+mean", dropout=0.1, word_dropout=0.1
        ),
        optim=OptimConfig(ema=0.9),
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(log_every=3),
    )
    choices = {"device": Choice("meta", ""), "precision": Choice("fp32", ""), "processes": Choice("1", "")}
    session = Session(Accelerator(questions), Watched(), CARD, "fp32", choices)  # type: ignore[arg-type]
    with Answering(questions), open_run(config, session) as run:
        assert run.trainer.model.training
        run.train()
    assert run.trainer.step == run.trainer.total_steps
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) >= 2
    assert questions.unseen == set()
    places = {place.replace("<listcomp>", "_act") for place in questions.all}  # which has a name of its own until 3.12
    assert {place for place in places if place.partition(":")[0] not in MEASURED} == PLACES
