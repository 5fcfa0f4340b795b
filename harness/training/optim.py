# SPDX-License-Identifier: Apache-2.0
"""Adam, the learning rate as a pure function of the step, the average of weights, and steps that change nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.batch import StepBatch
from harness.config import OptimConfig, RunConfig
from harness.ranks.distributed import World
from harness.rundir.checkpoint import AVERAGE, MOMENTS
from harness.rundir.layout import BAD_BATCHES, storage
from harness.rundir.records import write_bad_rows
from preprocessing.base.errors import ConfigError
from preprocessing.base.split_names import NO_LABEL, TRAIN, UNLABELLED
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import VOCABULARY, Split
from preprocessing.text.vocabulary import Vocabulary

LAG_STEPS = 8
"""On CUDA the host reads a verdict so many steps later, when it has long been copied."""
GO, SKIP = torch.zeros(()), torch.ones(())
"""The verdicts on a CPU."""


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW, number for number, without its search for devices and dtypes at every step: there is one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Where the attribute ``found_inf``, a tensor, holds 1.0, nothing changes, not even the number of steps; what
        ``grad_scale`` holds, gradients are divided by. ``GradScaler`` and the guard set both; None is as good as none.
        """
        assert closure is None, "gradients are there already"
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] for parameter in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            averages, squares = ([state[name] for state in states] for name in MOMENTS)
            torch._fused_adamw_(
                parameters,
                [parameter.grad for parameter in parameters],
                averages,
                squares,
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=grad_scale,
                found_inf=found_inf,
            )
            if found_inf is not None:
                torch._foreach_sub_(steps, [found_inf] * len(steps))


def build_optimizer(model: nn.Module, config: OptimConfig) -> FusedAdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, which at 0 makes it plain Adam.

    Every parameter has the state that AdamW would make at its first step, so that what it takes is there to see.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = FusedAdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    for parameter in model.parameters():
        moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """``KEY.NAME`` -> tensor for every parameter of ``model``: its moments and the number of its steps."""
    keys = ("step", *MOMENTS)
    return {f"{key}.{name}": optimizer.state[held][key] for name, held in model.named_parameters() for key in keys}


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``: linear warm-up, then the chosen decay."""
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.decay == "linear":
        return config.lr * (1 - progress)
    if config.decay == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr


@torch.no_grad()
def clip(parameters: Iterable[torch.Tensor], max_norm: float | None) -> torch.Tensor:
    """Scale gradients down to ``max_norm`` as torch's ``clip_grad_norm_`` does on one device; their norm before that.

    A factor of 1 changes nothing; where the host knows it without a wait, memory is left alone.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_norm is not None:
        factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        if not (factor.is_cpu and factor == 1.0):
            torch._foreach_mul_(gradients, factor)
    return norm


class WeightAverage:
    """Exponential moving average of a model's parameters; ``swapped`` loads it into the model temporarily."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """``decay`` is the share of the old average that stays at each step, less in the first steps."""
        self.names = [f"{AVERAGE}.{name}" for name, _ in model.named_parameters()]
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int, skip: torch.Tensor) -> None:
        """Move towards the weights after optimizer step ``step`` (from 0); early steps weigh more.

        Where ``skip`` is 1, the step changed nothing, and the average stays too. On CUDA the host does not read it.
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        if not skip.is_cpu:
            torch._foreach_lerp_(self.average, self.parameters, [share * (1 - skip)] * len(self.average))
        elif not skip:
            torch._foreach_lerp_(self.average, self.parameters, share)

    def state(self) -> dict[str, torch.Tensor]:
        """``average.NAME`` -> tensor for every parameter."""
        return dict(zip(self.names, self.average, strict=True))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``state`` gave; where there is nothing, the average begins at the weights of now."""
        for name, own, average in zip(self.names, self.parameters, self.average, strict=True):
            average.copy_(tensors.get(name, own.detach()))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model holds the average inside the block, and its own weights again afterwards."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)


@dataclass
class Verdict:
    """What is known of one step until the host has read whether it was skipped."""

    step: int
    rows: list[tuple[str, np.ndarray]]
    """Of each micro-batch of this rank: its split and its source rows."""
    losses: list[torch.Tensor]
    """Row losses of each micro-batch, on the device."""
    skipped: torch.Tensor
    """0 or 1, on the host, valid once ``copied`` has passed."""
    copied: torch.cuda.Event | None


class NonFiniteGuard:
    """Skips a step whose gradient is not finite, on every rank, and writes its rows to ``bad_batches``.

    The norm of the averaged gradient is the same number on every rank, so all of them agree without a message. The
    fused optimizer takes the verdict as a tensor and skips the update on the device. The host reads a step's verdict a
    fixed number of steps later on CUDA, when it has long been copied, and so never waits; all ranks read it at the same
    step. After ``limit`` skipped steps in a row the run ends.
    """

    def __init__(self, config: RunConfig, world: World, splits: Mapping[str, Split], limit: int) -> None:
        """Rows of the ``splits`` of the dataset that is trained on go to the run's bad_batches."""
        self.config, self.world, self.splits, self.limit = config, world, splits, limit
        self.run = Path(config.run)
        self.pending: deque[Verdict] = deque()
        self.in_a_row = 0
        self.total = 0

    def judge(
        self, optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor, scaler: torch.amp.GradScaler | None
    ) -> torch.Tensor:
        """Have a fused optimizer skip its next update if the gradient is not finite; gives 1.0 or 0.0, unread.

        In fp16 the ``scaler`` has judged already, when it divided the gradients by its scale, and the step obeys it.
        (Accelerate's ``optimizer_step_was_skipped`` is never true for a fused optimizer, which skips by itself.)
        """
        if scaler is not None:
            found = list(scaler._found_inf_per_device(optimizer).values())
            return torch.stack([flag.to(found[0].device) for flag in found]).sum().clamp(max=1.0)
        if grad_norm.is_cpu:  # the host may read: no flag means that the optimizer has none to look at
            finite = math.isfinite(float(grad_norm))
            optimizer.found_inf = None if finite else SKIP  # type: ignore[attr-defined]
            return GO if finite else SKIP
        skip = 1.0 - torch.isfinite(grad_norm).to(torch.float32)
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        return skip

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.in_a_row, self.total = state["in_a_row"], state["total"]

    def record(self, step: int, batch: StepBatch, losses: list[torch.Tensor], skip: torch.Tensor) -> int:
        """Remember a step and act on the one whose verdict is due; how many skipped ones came to light.

        Raises ``ConfigError`` at the limit.
        """
        before, event = self.total, None
        if not skip.is_cpu:
            host = torch.empty((), dtype=skip.dtype, pin_memory=skip.is_cuda)
            host.copy_(skip, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            skip = host
        micro_batches = [*batch.micro_batches, *batch.unlabelled]
        rows = [(TRAIN if micro.labelled else UNLABELLED, micro.rows) for micro in micro_batches]
        self.pending.append(Verdict(step, rows, losses, skip, event))
        while len(self.pending) > (LAG_STEPS if event is not None else 0):
            self._act(self.pending.popleft())
        return self.total - before

    def flush(self) -> None:
        """Act on every step that is still pending; at the end of an epoch, and in a save, where all ranks are."""
        while self.pending:
            self._act(self.pending.popleft())

    def _act(self, verdict: Verdict) -> None:
        with self.world.waiting(f"the device to finish step {verdict.step}, and with it gradients"):
            if verdict.copied is not None:
                verdict.copied.synchronize()
            skipped = bool(verdict.skipped)
            losses = [part.double().cpu().numpy() for part in verdict.losses] if skipped else []
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if not skipped:
            return
        self.total += 1
        bad = sum(int((~np.isfinite(part)).sum()) for part in losses)
        every = not sum(self.world.gather_objects(bad, "the rows of a skipped step"))
        with self.world.together("writing the rows of a skipped step"), storage(self.run):
            described: list[dict[str, object]] = []
            for (name, rows), part in zip(verdict.rows, losses, strict=True):
                chosen = np.full(len(rows), True) if every else ~np.isfinite(part)
                described += describe_rows(self.splits[name], self.config.data, rows[chosen], part[chosen])
            if described:
                write_bad_rows(self.run, verdict.step, self.world.rank, described)
        where = self.run / BAD_BATCHES
        if self.world.is_main:
            warning = f"warning: step {verdict.step}: the gradient was not finite; skipped, rows in {where}"
            Screen(errors=True).say(warning, "warn")
        if self.in_a_row >= self.limit:
            with self.world.together("stopping for gradients that are not finite"):
                raise ConfigError(
                    f"optim.lr: the gradient was not finite in {self.in_a_row} steps in a row, up to step "
                    f"{verdict.step}; lower optim.lr (now {self.config.optim.lr:g}) or look at the rows in {where}"
                )


def describe_rows(split: Split, data: str, rows: np.ndarray, losses: np.ndarray) -> Iterator[dict[str, object]]:
    """Shard, row, label, loss and decoded text of source rows; reads through the split, for rare use only."""
    tokens = Vocabulary.read(Path(data, VOCABULARY)).tokens
    wanted = dict(zip(rows.tolist(), losses.tolist(), strict=True))
    for shard in split.shards:
        for block in shard.blocks:
            for place in np.flatnonzero(np.isin(block.row, rows)):
                row, label = int(block.row[place]), int(block.label[place])
                yield {
                    "shard": shard.info.path,
                    "row": row,
                    "label": None if label == NO_LABEL else label,
                    "loss": str(wanted[row]),
                    "text": " ".join(tokens.take(block.ids[place, : block.length[place]]).to_pylist()),
                }
