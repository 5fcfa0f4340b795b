# SPDX-License-Identifier: Apache-2.0
"""The loop, and only the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from harness.config import RunConfig
from harness.data.loader import Loader, StepBatch
from harness.distributed import World
from harness.model import Objective
from harness.optim import build_optimizer, learning_rate, set_learning_rate
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
        validate: Callable[[int, int], None],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        """``validate(epoch, step)`` runs after each epoch, on every rank; ``report(figures)`` at each log line."""
        self.config, self.loader, self.world = config, loader, world
        self.accelerator = accelerator
        self.classifier = objective.classifier
        # The graph never changes, but DDP's static graph fails when the first backward pass runs under no_sync.
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True, static_graph=loader.micro_batch is None
        )
        self.model, self.optimizer = accelerator.prepare(objective, build_optimizer(objective, config.optim))
        self.validate, self.report = validate, report
        self.total_steps = config.epochs * loader.order.steps_per_epoch
        self.step = 0
        self.meter = Meter()

    def fit(self) -> None:
        """Train for all epochs."""
        for epoch in range(self.config.epochs):
            self.model.train()
            for batch in self.loader.steps(epoch):
                loss_sum, grad_norm = self.update(batch)
                self.meter.add(batch, self.step, loss_sum)
                self.step += 1
                if self.step % self.config.tracking.log_every == 0 or self.step == self.total_steps:
                    self.log(grad_norm)
            started = time.perf_counter()
            self.validate(epoch, self.step)
            self.meter.pause(time.perf_counter() - started)

    def update(self, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One optimizer step over one global batch, however it is split (law 4).

        Each row's loss is divided by the rows of the *global* batch; DDP averages gradients over ranks, so it is
        multiplied by their number. Returns the sum of this rank's row losses and the norm of the global gradient.
        """
        set_learning_rate(self.optimizer, learning_rate(self.step, self.total_steps, self.config.optim))
        scale = self.world.world_size / batch.global_rows
        losses = []
        for number, micro_batch in enumerate(batch.micro_batches):
            last = number == len(batch.micro_batches) - 1
            self.seed_dropout(number)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.model(micro_batch)
                self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
        grad_norm = None
        if self.config.optim.clip_norm is not None:
            grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum(), grad_norm

    def seed_dropout(self, micro_batch: int) -> None:
        """Make dropout a function of (seed, step, rank, micro-batch), so that a resumed run draws the same masks."""
        if self.config.model.dropout:
            key = np.random.SeedSequence((self.config.seed, self.step, self.world.rank, micro_batch))
            torch.manual_seed(int(key.generate_state(1)[0]))

    def log(self, grad_norm: torch.Tensor | None) -> None:
        """Report the figures since the last log line; the only moment at which the host waits for the device."""
        figures: dict[str, Any] = {
            "step": self.step,
            "epoch": self.step / self.loader.order.steps_per_epoch,
            "lr": learning_rate(self.step - 1, self.total_steps, self.config.optim),
            "grad_norm": None if grad_norm is None else float(grad_norm),
            **self.meter.read(self.world),
        }
        self.report(figures)
