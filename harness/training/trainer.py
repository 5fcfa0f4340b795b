# SPDX-License-Identifier: Apache-2.0
"""The training loop: epochs, steps, micro-batches, one update per global batch; and its state between steps."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from harness.batch import StepBatch
from harness.config import RunConfig
from harness.data.loader import Loader
from harness.model.networks import AnyObjective, load_weights
from harness.ranks.distributed import World
from harness.rundir.checkpoint import MODEL, OPTIMIZER, Checkpoint
from harness.training.optim import (
    NonFiniteGuard,
    WeightAverage,
    build_optimizer,
    clip,
    learning_rate,
    optimizer_state,
)
from harness.training.throughput import Meter
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen

FP16_FIRST_SKIPS = 20
"""Extra skipped steps allowed in fp16: at the start, loss scaling skips steps until it finds a scale that fits."""
DIVERGED = 100
"""Training diverged if the loss is this many times that of guessing. The gradient norm may miss it: gates saturate."""


Tensors = dict[str, dict[str, torch.Tensor]]
"""File of a checkpoint -> name -> tensor."""


class Milestones:
    """Callbacks of the loop, on every rank. These do nothing; ``Run`` overrides them."""

    def after_step(self) -> None:
        """Called after each step; may raise to leave the loop."""

    def validate(self, epoch: int) -> bool:
        """Called after the steps of each epoch; returns whether to stop training."""
        return False

    def after_epoch(self) -> None:
        """Called after an epoch is trained and validated."""

    def log(self, figures: dict[str, Any]) -> None:
        """Receive the figures since the last log line."""


class Trainer:
    """Trains an objective; its ``milestones`` validate, save checkpoints and receive figures."""

    def __init__(
        self,
        config: RunConfig,
        objective: AnyObjective,
        loader: Loader,
        accelerator: Accelerator,
        world: World,
    ) -> None:
        """Start at step 0; allocates all memory that is kept between steps."""
        self.config, self.objective, self.loader = config, objective, loader
        self.accelerator, self.world = accelerator, world
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True,
            # The graph is static, but DDP's static_graph fails if the first backward pass runs under no_sync.
            static_graph=config.micro_batch is None,
        )
        self.optimizer = build_optimizer(objective.classifier, config.optim)
        with world.waiting("the first weights"):  # DDP compares and sends them; under NCCL the ranks connect here
            self.model, self.scaled = accelerator.prepare(objective, self.optimizer)
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):
            # Buffers are constants, or the wide part's, which all ranks update alike: DDP need not send them.
            self.model.broadcast_buffers = False
        self.parameters = list(objective.classifier.parameters())
        self.device = self.parameters[0].device
        self.meter, self.guard = Meter(self.device, objective.classifier.predictions), NonFiniteGuard(self.device)
        self.nan_limit = config.nan_limit + (FP16_FIRST_SKIPS if accelerator.scaler is not None else 0)
        decay = config.optim.ema
        self.average = None if decay is None else WeightAverage(objective.classifier, decay)
        self.milestones = Milestones()
        """Called at every step, log line and epoch, on every rank."""
        self.total_steps = config.epochs * loader.order.steps_per_epoch
        self.step = 0
        self.epochs_done = 0
        """Finished epochs, including their validation."""
        self.stopped = False
        """A validation asked to stop."""

    def fit(self) -> None:
        """Train from the current step to the last epoch, or until a validation asks to stop."""
        per_epoch = self.loader.order.steps_per_epoch
        while self.epochs_done < self.config.epochs and not self.stopped:
            epoch = self.epochs_done
            self.model.train()
            for batch in self.loader.steps(epoch, self.step - epoch * per_epoch):
                with self.world.waiting(f"the gradients of step {self.step}"):
                    _, grad_norm = self.update(batch)
                self.step += 1
                if self.step % self.config.tracking.log_every == 0 or self.step == self.total_steps:
                    self.log(grad_norm)
                self.milestones.after_step()
            started = time.perf_counter()
            self.stopped = self.milestones.validate(epoch)
            self.meter.paused_s += time.perf_counter() - started
            self.epochs_done = epoch + 1
            self.milestones.after_epoch()

    def update(self, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step over one global batch, however it is split (law 4).

        A row's loss is divided by the rows or predictions of the *global* batch. DDP averages gradients over ranks, so
        losses are multiplied by the number of ranks. Returns the sum of the losses of this rank's rows and the norm of
        the global gradient.
        """
        lr = learning_rate(min(self.step, self.total_steps - 1), self.total_steps, self.config.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        scale = self.world.world_size / self.objective.divisor(batch)
        losses = []
        for number, micro_batch in enumerate(batch.micro_batches):
            last = number == len(batch.micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.meter.forward():
                    loss = self.model(micro_batch, self.step)
                if self.accelerator.scaler is None:
                    loss.backward(torch.full_like(loss, scale))
                else:
                    self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
        classifier = self.objective.classifier
        if classifier.holds_embedding(self.step):
            classifier.embedding.weight.grad = None  # the optimizer skips it: no update, decay or moments
        self.accelerator.unscale_gradients()
        scaled = self.accelerator.scaler is not None
        grad_norm = clip(self.optimizer, self.parameters, self.config.optim.clip_norm, scaled=scaled)
        self.take_step(grad_norm)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self.meter.add(batch, self.step, loss)
        return loss, grad_norm

    def take_step(self, grad_norm: torch.Tensor) -> None:
        """Update the weights, unless the gradient is not finite; then skip the step on all ranks."""
        skip = self.guard.judge(self.optimizer, grad_norm, self.accelerator.scaler)
        # Accelerate's optimizer checks for installed packages at every step; only loss scaling needs it.
        (self.optimizer if self.accelerator.scaler is None else self.scaled).step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.average is not None:
            self.average.update(self.step)
        self.guard.count(skip)

    def log(self, grad_norm: torch.Tensor) -> None:
        """Report the figures since the last log line; only here the host waits for the device."""
        with self.world.waiting(f"the device to finish step {self.step - 1}, and with it gradients"):
            norm, figures, guard = float(grad_norm), self.meter.read(self.world), self.guard.state()
        figures = {
            "step": self.step,
            "epoch": self.step / self.loader.order.steps_per_epoch,
            "lr": learning_rate(self.step - 1, self.total_steps, self.config.optim),
            "grad_norm": norm,
            "skipped": guard["skipped"],
            **figures,
        }
        self.guard.counts[1].zero_()
        self.milestones.log(figures)
        if guard["skipped"] and self.world.is_main:
            warning = f"warning: up to step {self.step}, {guard['skipped']} were skipped: their gradient was not finite"
            Screen(errors=True).say(warning, "warn")
        why, guessing = "", math.log(self.objective.classifier.num_classes)
        if guard["in_a_row"] >= self.nan_limit:
            why = f"the gradient was not finite in {guard['in_a_row']} steps in a row, up to step {self.step}"
        elif figures["loss"] > DIVERGED * guessing:
            loss = figures["loss"]
            why = f"training diverged: at step {self.step} the loss is {loss:.4g}, where guessing gives {guessing:.2f}"
        if why:
            with self.world.together("stopping for a loss that diverged"):
                raise ConfigError(f"optim.lr: {why}; lower optim.lr (now {self.config.optim.lr:g})")

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The complete state between two steps: tensors, which are the training's own, so do not write to them, and
        JSON values. Every rank calls it: it collects the counts of all ranks.
        """
        classifier = self.objective.classifier
        optimizer = optimizer_state(self.optimizer, classifier)
        if self.average is not None:
            optimizer |= self.average.state()
        scaler = self.accelerator.scaler
        with self.world.waiting(f"the device to finish step {self.step - 1}, and with it gradients"):
            scaled, counted = None if scaler is None else scaler.state_dict(), self.meter.state(self.world)
            guard = self.guard.state()
        values = {
            "step": self.step,
            "epochs_done": self.epochs_done,
            "stopped": self.stopped,
            "recurrence": "fused" if classifier.recurrent.fused else self.loader.layout,
            "guard": guard,
            "scaler": scaled,
            "counted": counted,
        }
        weights = {name: tensor.detach() for name, tensor in classifier.state_dict().items()}
        return {MODEL: weights, OPTIMIZER: optimizer}, values

    def load(self, checkpoint: Checkpoint) -> None:
        """Resume from a verified checkpoint. Raises ``DataError`` if it belongs to another model.

        If it has no weight average, the average starts from the weights.
        """
        where, classifier, values = checkpoint.path, self.objective.classifier, checkpoint.state["trainer"]
        weights, tensors = (checkpoint.tensors(name) for name in (MODEL, OPTIMIZER))
        load_weights(classifier, weights, where / MODEL)
        own = optimizer_state(self.optimizer, classifier)
        if any(name not in tensors or tensors[name].shape != live.shape for name, live in own.items()):
            raise DataError(f"{where / OPTIMIZER}: not the optimizer of this model")
        for name, live in own.items():
            live.copy_(tensors[name])
        if self.average is not None:
            self.average.load(tensors)
        per_epoch = self.loader.order.steps_per_epoch
        self.step, self.epochs_done = values["step"], values["epochs_done"]
        if not self.epochs_done * per_epoch <= self.step <= (self.epochs_done + 1) * per_epoch:
            self.epochs_done = self.step // per_epoch  # other data: epochs have another length
        self.stopped = values["stopped"] and self.config.patience is not None
        self.guard.load(values["guard"])
        if self.accelerator.scaler is not None and values["scaler"]:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.meter.load(values["counted"], self.world.rank, self.world.world_size)
