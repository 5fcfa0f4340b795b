# SPDX-License-Identifier: Apache-2.0
"""The loop, and only the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DDPCommunicationHookType

from harness.config import RunConfig
from harness.data.loader import Loader, StepBatch
from harness.distributed import World
from harness.ema import WeightAverage
from harness.guard import NanGuard
from harness.model import Objective
from harness.optim import build_optimizer, learning_rate, set_learning_rate
from harness.profiling import StepProfiler
from harness.throughput import Meter


class Trainer:
    """Trains an ``Objective``; whoever made it decides what a validation is and where figures go."""

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        loader: Loader,
        accelerator: Accelerator,
        world: World,
        *,
        guard: NanGuard,
        meter: Meter,
        profiler: StepProfiler,
        validate: Callable[[int, int], bool],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        """``validate(epoch, step)`` runs after each epoch, on every rank, and says whether to stop there;
        ``report(figures)`` at each log line.
        """
        self.config, self.loader, self.world = config, loader, world
        self.accelerator, self.objective = accelerator, objective
        self.guard, self.meter, self.profiler = guard, meter, profiler
        accelerator.ddp_handler = ddp_options(config, accumulates=loader.micro_batch is not None)
        self.model, self.optimizer = accelerator.prepare(objective, build_optimizer(objective, config.optim))
        average = config.optim.ema
        self.average = None if average is None else WeightAverage(objective.classifier, average)
        self.validate, self.report = validate, report
        self.total_steps = config.epochs * loader.order.steps_per_epoch
        self.step = 0

    def fit(self) -> None:
        """Train for all epochs, or until a validation says stop."""
        for epoch in range(self.config.epochs):
            self.model.train()
            for batch in self.loader.steps(epoch):
                self.profiler.before(self.step)
                loss_sum, grad_norm = self.update(batch)
                self.profiler.after(self.step)
                self.meter.add(batch, self.step, loss_sum)
                self.step += 1
                if self.step % self.config.tracking.log_every == 0 or self.step == self.total_steps:
                    self.log(grad_norm)
            self.guard.flush(self.current_lr())
            if self.evaluate(epoch):
                return

    def evaluate(self, epoch: int) -> bool:
        """Validate, with the averaged weights if there are any; whether training should stop."""
        started = time.perf_counter()
        with nullcontext() if self.average is None else self.average.swapped():
            stop = self.validate(epoch, self.step)
        self.meter.pause(time.perf_counter() - started)
        return stop

    def update(self, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step over one global batch, however it is split (law 4).

        Each row's loss is divided by the rows of the *global* batch; DDP averages gradients over ranks, so it is
        multiplied by their number. Returns the sum of this rank's row losses and the norm of the global gradient.
        """
        set_learning_rate(self.optimizer, self.current_lr())
        scale = self.world.world_size / batch.global_rows
        losses, row_losses = [], []
        for number, micro_batch in enumerate(batch.micro_batches):
            last = number == len(batch.micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.meter.forward():
                    loss = self.model(micro_batch, self.step)
                self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
            row_losses.append(self.objective.row_losses)
        grad_norm = self.clip()
        self.take_step(batch, grad_norm, row_losses)
        return torch.stack(losses).sum(), grad_norm

    def clip(self) -> torch.Tensor:
        """Bound the norm of the global gradient; the norm before that."""
        if self.config.optim.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
            assert norm is not None
            return norm
        self.accelerator.unscale_gradients()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def take_step(self, batch: StepBatch, grad_norm: torch.Tensor, row_losses: list[torch.Tensor]) -> None:
        """Update the weights, unless the gradient is not finite; then nothing changes, on any rank."""
        scaled = self.accelerator.scaler is not None  # fp16, where the scaler itself skips steps
        skip = grad_norm.new_zeros(()) if scaled else self.guard.judge(self.optimizer.optimizer, grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if scaled and self.accelerator.optimizer_step_was_skipped:
            skip = torch.ones_like(skip)
        if self.average is not None:
            self.average.update(self.step)
        self.meter.skipped += self.guard.record(self.step, batch, row_losses, skip, self.current_lr())

    def current_lr(self) -> float:
        """Learning rate of the current step."""
        return learning_rate(min(self.step, self.total_steps - 1), self.total_steps, self.config.optim)

    def log(self, grad_norm: torch.Tensor) -> None:
        """Report the figures since the last log line; the only moment at which the host waits for the device."""
        figures: dict[str, Any] = {
            "step": self.step,
            "epoch": self.step / self.loader.order.steps_per_epoch,
            "lr": learning_rate(self.step - 1, self.total_steps, self.config.optim),
            "grad_norm": float(grad_norm),
            **self.meter.read(self.world),
        }
        self.report(figures)
        self.guard.check_loss(figures["loss"], self.step, figures["lr"])


def ddp_options(config: RunConfig, *, accumulates: bool) -> DistributedDataParallelKwargs:
    """How DDP is set up. The graph never changes, but DDP's static graph fails when the first backward pass runs under
    ``no_sync``, so it is left out where micro-batches are accumulated.
    """
    compressed = config.optim.gradient_compression == "bf16"
    hook = DDPCommunicationHookType.BF16 if compressed else DDPCommunicationHookType.NO
    return DistributedDataParallelKwargs(gradient_as_bucket_view=True, static_graph=not accumulates, comm_hook=hook)
