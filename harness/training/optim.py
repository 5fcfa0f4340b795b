# SPDX-License-Identifier: Apache-2.0
"""Adam, the learning rate as a pure function of the step, the average of weights, and steps that change nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.batch import StepBatch
from harness.config import OptimConfig
from harness.ranks.distributed import World
from harness.rundir.checkpoint import MOMENTS
from harness.rundir.layout import BAD_BATCHES, storage
from harness.rundir.records import write_bad_rows
from preprocessing.base.errors import ConfigError
from preprocessing.base.split_names import NO_LABEL
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import VOCABULARY, Split
from preprocessing.text.vocabulary import Vocabulary

LAG_STEPS = 8
"""On CUDA the host reads a verdict so many steps later, when it has long been copied."""
GO, SKIP = torch.zeros(()), torch.ones(())
"""The verdicts on a CPU."""
DIVERGED = 100
"""A loss this many times that of guessing means that training diverged; saturated gates hide it from the norm."""


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
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, which at 0 makes it plain Adam."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = FusedAdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    allocate_moments(optimizer)
    return optimizer


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the state that AdamW would make at its first step, so that what it takes is there to see."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """``KEY.NAME`` -> tensor for every parameter of ``model``: its moments and the number of its steps."""
    keys = ("step", *MOMENTS)
    return {f"{key}.{name}": optimizer.state[held][key] for name, held in model.named_parameters() for key in keys}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take up what ``optimizer_state`` gave. Raises ``KeyError`` or ``RuntimeError`` for another model's."""
    for name, live in optimizer_state(optimizer, model).items():
        live.copy_(tensors[name])


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


def global_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients as one vector, as ``torch.nn.utils.get_total_norm`` computes it on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_to(gradients: list[torch.Tensor], norm: torch.Tensor, max_norm: float) -> None:
    """Scale gradients whose ``global_norm`` is ``norm`` down to ``max_norm``, as ``clip_grads_with_norm_`` does.

    A factor of 1 changes nothing; where the host knows it without a wait, memory is left alone.
    """
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if not (factor.is_cpu and factor == 1.0):
        torch._foreach_mul_(gradients, factor)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class WeightAverage:
    """Exponential moving average of a model's parameters; ``swapped`` loads it into the model temporarily."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """``decay`` is the share of the old average that stays at each step, less in the first steps."""
        self.names = [name for name, _ in model.named_parameters()]
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
            shares = [share * (1 - skip)] * len(self.average)
            torch._foreach_lerp_(self.average, self.parameters, shares)
        elif not skip:
            torch._foreach_lerp_(self.average, self.parameters, share)

    def state(self) -> dict[str, torch.Tensor]:
        """``average.NAME`` -> tensor for every parameter."""
        return {f"average.{name}": average for name, average in zip(self.names, self.average, strict=True)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``state`` gave; where there is nothing, the average begins at the weights of now."""
        for name, own, average in zip(self.names, self.parameters, self.average, strict=True):
            average.copy_(tensors.get(f"average.{name}", own.detach()))

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
    parts: list[tuple[Split, np.ndarray]]
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

    def __init__(
        self,
        limit: int,
        world: World,
        directory: Path,
        data: Path,
        split: Split,
        unlabelled: Split | None = None,
        num_classes: int = 2,
    ) -> None:
        """Rows of ``split``, and of ``unlabelled``, of the dataset ``data`` go to ``directory``/bad_batches."""
        self.limit, self.world, self.directory, self.data = limit, world, directory, data
        self.split, self.unlabelled, self.num_classes = split, unlabelled, num_classes
        self.pending: deque[Verdict] = deque()
        self.in_a_row = 0
        self.total = 0

    def judge(
        self, optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor, scaler: torch.amp.GradScaler | None = None
    ) -> torch.Tensor:
        """Have a fused optimizer skip its next update if the gradient is not finite; gives 1.0 or 0.0, unread.

        In fp16 the ``scaler`` has judged already, when it divided the gradients by its scale, and the step obeys it.
        """
        if scaler is not None:
            return found_inf(scaler, optimizer)
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

    def record(self, step: int, batch: StepBatch, losses: list[torch.Tensor], skip: torch.Tensor, lr: float) -> int:
        """Remember a step and act on the one whose verdict is due; how many skipped ones came to light.

        Raises ``ConfigError`` at the limit.
        """
        before = self.total
        event = None
        if not skip.is_cpu:
            host = torch.empty((), dtype=skip.dtype, pin_memory=skip.is_cuda)
            host.copy_(skip, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            skip = host
        parts = [(self.split, micro.rows) for micro in batch.micro_batches]
        if self.unlabelled is not None:
            parts += [(self.unlabelled, micro.rows) for micro in batch.unlabelled]
        self.pending.append(Verdict(step, parts, losses, skip, event))
        while len(self.pending) > (LAG_STEPS if event is not None else 0):
            self._act(self.pending.popleft(), lr)
        return self.total - before

    def check_loss(self, loss: float, step: int, lr: float) -> None:
        """Raise ``ConfigError`` if the mean loss of a log line, the same on every rank, is beyond all sense."""
        guessing = math.log(self.num_classes)
        if loss > DIVERGED * guessing:
            with self.world.together("stopping for a loss that diverged"):
                raise ConfigError(
                    f"optim.lr: training diverged: at step {step} the loss is {loss:.4g}, where guessing gives "
                    f"{guessing:.2f}; lower optim.lr (now {lr:g})"
                )

    def flush(self, lr: float) -> None:
        """Act on every step that is still pending; at the end of an epoch, and in a save, where all ranks are."""
        while self.pending:
            self._act(self.pending.popleft(), lr)

    def _act(self, verdict: Verdict, lr: float) -> None:
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
        where = self.directory / BAD_BATCHES
        with self.world.together("writing the rows of a skipped step"), storage(self.directory):
            described = []
            for (split, rows), part in zip(verdict.parts, losses, strict=True):
                chosen = np.full(len(rows), True) if every else ~np.isfinite(part)
                if chosen.any():
                    described += describe_rows(split, self.data, rows[chosen], part[chosen])
            if described:
                write_bad_rows(self.directory, verdict.step, self.world.rank, described)
        if self.world.is_main:
            warning = f"warning: step {verdict.step}: the gradient was not finite; skipped, rows in {where}"
            Screen(errors=True).say(warning, "warn")
        if self.in_a_row >= self.limit:
            with self.world.together("stopping for gradients that are not finite"):
                raise ConfigError(
                    f"optim.lr: the gradient was not finite in {self.in_a_row} steps in a row, up to step "
                    f"{verdict.step}; lower optim.lr (now {lr:g}) or look at the rows in {where}"
                )


def found_inf(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """1.0 if the unscaled gradients of ``optimizer`` hold a value that is not finite, else 0.0; a scalar, unread.

    Accelerate's ``optimizer_step_was_skipped`` is never true for a fused optimizer, which is always called and skips
    by itself.
    """
    found = list(scaler._found_inf_per_device(optimizer).values())
    return torch.stack([flag.to(found[0].device) for flag in found]).sum().clamp(max=1.0)


def describe_rows(split: Split, data: Path, rows: np.ndarray, losses: np.ndarray) -> list[dict[str, object]]:
    """Shard, row, label, loss and decoded text of source rows; reads through the split, for rare use only."""
    tokens = Vocabulary.read(data / VOCABULARY).tokens
    wanted = dict(zip(rows.tolist(), losses.tolist(), strict=True))
    described: list[dict[str, object]] = []
    for shard in split.shards:
        for block in shard.blocks:
            for place in np.flatnonzero(np.isin(block.row, rows)):
                row = int(block.row[place])
                ids = block.ids[place, : block.length[place]]
                text = " ".join(tokens[int(token)].as_py() for token in ids)
                label = int(block.label[place])
                where = {"shard": shard.info.path, "row": row, "label": None if label == NO_LABEL else label}
                described.append({**where, "loss": str(wanted[row]), "text": text})
    return described
