# SPDX-License-Identifier: Apache-2.0
"""One update per global batch: forward, backward, clipping, optimizer; and the state of a training between steps."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import DistributedDataParallelKwargs

from harness.batch import StepBatch, record_event
from harness.config import RunConfig
from harness.data.loader import Loader
from harness.distributed.session import Session
from harness.model.networks import AnyObjective, load_weights
from harness.rundir.checkpoint import MODEL, OPTIMIZER, Checkpoint
from harness.training.optim import (
    WeightAverage,
    build_optimizer,
    clip,
    learning_rate,
    optimizer_state,
    skip_if_not_finite,
)
from harness.training.throughput import Meter, summarize_throughput
from padless.core.errors import ConfigError, DataError

FP16_FIRST_SKIPS = 20
"""Extra skipped steps allowed in fp16: at the start, loss scaling skips steps until it finds a scale that fits."""
MAX_SKIPS = 3
"""A log line after so many skipped steps in a row ends the training."""
MAX_LOSS_RATIO = 100
"""Training diverged if the loss is this many times that of guessing. The gradient norm may miss it: gates saturate."""

Tensors = dict[str, dict[str, torch.Tensor]]
"""File of a checkpoint -> name -> tensor."""


class Trainer:
    """Makes one update for each global batch, and gives and loads the state between two of them.

    It does not validate, save or print; ``training.run`` owns the loop.
    """

    def __init__(self, config: RunConfig, objective: AnyObjective, loader: Loader, session: Session) -> None:
        """Start at step 0; allocates all memory that is kept between steps."""
        self.config, self.objective, self.loader = config, objective, loader
        self.accelerator, self.world = accelerator, world = session.accelerator, session.world
        accelerator.ddp_handler = DistributedDataParallelKwargs(
            gradient_as_bucket_view=True,
            # The graph is static, but DDP's static_graph fails if the first backward pass runs under no_sync.
            static_graph=config.micro_batch is None,
        )
        self.optimizer = build_optimizer(objective.classifier, config.optim)
        with world.watch_wait("the first weights"):  # DDP compares and sends them; under NCCL the ranks connect here
            self.model, self.accelerated_optimizer = accelerator.prepare(objective, self.optimizer)
        if isinstance(self.model, torch.nn.parallel.DistributedDataParallel):  # its argument would warn
            # Buffers are constants, or the linear part's, which all ranks update alike: DDP need not send them.
            self.model.broadcast_buffers = False
        self.parameters = list(objective.classifier.parameters())
        self.device = self.parameters[0].device
        self.meter = Meter(self.device, objective.classifier.predictions)
        self.grad_norm = torch.zeros((), device=self.device)
        """Norm of the last step's global gradient, before clipping."""
        self.skips_in_a_row = torch.zeros((), device=self.device)
        """Steps up to the last one that were skipped, since their gradient was not finite."""
        decay = config.optim.ema
        self.average = None if decay is None else WeightAverage(objective.classifier, decay)
        self.steps_per_epoch = loader.order.steps_per_epoch
        self.total_steps = config.epochs * self.steps_per_epoch
        self.step = 0
        self.epochs_done = 0
        """Finished epochs, including their validation."""

    def batches(self) -> Generator[StepBatch, None, None]:
        """This rank's share of the steps of the current epoch that are not trained yet."""
        return self.loader.steps(self.epochs_done, self.step - self.epochs_done * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step from 0; after the last step it stays."""
        return learning_rate(min(step, self.total_steps - 1), self.total_steps, self.config.optim)

    def update(self, batch: StepBatch) -> torch.Tensor:
        """One optimizer step over one global batch, however it is split (law 4).

        A row's loss is divided by the rows or predictions of the *global* batch. DDP averages gradients over ranks, so
        losses are multiplied by the number of ranks. Returns the sum of the losses of this rank's rows, on the device.
        """
        lr = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.world.watch_wait(f"the gradients of step {self.step}"):
            loss = self.backward(batch)
            self.accelerator.unscale_gradients()
            self.grad_norm = clip(self.parameters, self.config.optim.clip_norm)
            self.take_step()
        self.meter.add(batch, self.step, loss)
        self.step += 1
        return loss

    def backward(self, batch: StepBatch) -> torch.Tensor:
        """Accumulate the gradients of all micro-batches; returns the sum of their rows' losses."""
        scale = self.world.world_size / self.objective.divisor(batch)
        losses = []
        for number, micro_batch in enumerate(batch.micro_batches, 1):
            is_last = number == len(batch.micro_batches)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                loss = self.model(micro_batch)
                if self.accelerator.scaler is None:
                    loss.backward(torch.full_like(loss, scale))
                else:
                    self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def take_step(self) -> None:
        """Update the weights, unless the gradient is not finite; then skip the step on all ranks."""
        scaler = self.accelerator.scaler
        skip = skip_if_not_finite(self.optimizer, self.grad_norm, is_scaled=scaler is not None)
        self.skips_in_a_row = (self.skips_in_a_row + skip) * skip
        # Accelerate's optimizer checks for installed packages at every step; only loss scaling needs it.
        (self.optimizer if scaler is None else self.accelerated_optimizer).step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.average is not None:
            self.average.update(self.step)

    def begin_figures(self) -> Callable[[], dict[str, Any]]:
        """Begin to copy the figures since the last call to the host, which does not wait. What it returns waits for the
        copy, and gives the figures over all ranks (``read_figures``).
        """
        numbers = torch.stack([number.double() for number in (self.meter.loss, self.grad_norm, self.skips_in_a_row)])
        if self.device.type == "cuda":
            numbers, on_device = torch.empty(len(numbers), dtype=numbers.dtype, pin_memory=True), numbers
            numbers.copy_(on_device, non_blocking=True)
        copied = record_event(self.device)
        return partial(self.read_figures, self.step, self.meter.take(), numbers, copied)

    def read_figures(
        self, step: int, work: dict[str, Any], numbers: torch.Tensor, copied: torch.cuda.Event | None
    ) -> dict[str, Any]:
        """The figures of a log line at a step, from what a rank has counted and its ``numbers``, once ``copied``; every
        rank calls it. Raises ``ConfigError`` on every rank if the training diverged.
        """
        if copied is not None:
            with self.world.watch_wait(f"the device to finish step {step - 1}, and with it gradients"):
                copied.synchronize()
        rank_loss, norm, num_skips = numbers.tolist()
        ranks = self.world.gather_objects(work | {"loss": rank_loss}, "the figures of a log line")
        throughput = summarize_throughput(ranks, self.meter.predictions)
        max_skips = MAX_SKIPS + (FP16_FIRST_SKIPS if self.accelerator.scaler is not None else 0)
        loss, guessing_loss, reason = throughput["loss"], self.objective.guessing_loss, None
        if num_skips >= max_skips:
            reason = f"the gradient was not finite in {int(num_skips)} steps in a row, up to step {step}"
        elif loss > MAX_LOSS_RATIO * guessing_loss:
            difference = f"{loss:.4g}, where guessing gives {guessing_loss:.2f}"
            reason = f"training diverged: at step {step} the loss is {difference}"
        if reason is not None:
            with self.world.raise_together("stopping for a loss that diverged"):
                raise ConfigError(f"optim.lr: {reason}; lower optim.lr (now {self.config.optim.lr:g})")
        return {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "lr": self.learning_rate(step - 1),
            "grad_norm": norm,
            **throughput,
        }

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """The complete state between two steps: tensors, which are the training's own, so do not write to them, and
        JSON values. Every rank calls it: it collects the counts of all ranks.
        """
        classifier = self.objective.classifier
        optimizer = optimizer_state(self.optimizer, classifier)
        if self.average is not None:
            optimizer |= self.average.state()
        scaler = self.accelerator.scaler
        with self.world.watch_wait(f"the device to finish step {self.step - 1}, and with it gradients"):
            scale, counts = None if scaler is None else scaler.state_dict(), self.meter.state(self.world)
        values = {
            "step": self.step,
            "epochs_done": self.epochs_done,
            "recurrence": self.loader.layout,
            "scaler": scale,
            "counted": counts,
        }
        return {MODEL: classifier.state_dict(), OPTIMIZER: optimizer}, values

    def load(self, checkpoint: Checkpoint) -> None:
        """Resume from a verified checkpoint. Raises ``DataError`` if it is of another model.

        If it has no weight average, the average starts from the weights.
        """
        classifier, values = self.objective.classifier, checkpoint.state["trainer"]
        weights, tensors = (checkpoint.tensors(name) for name in (MODEL, OPTIMIZER))
        load_weights(classifier, weights, checkpoint.path / MODEL)
        moments = optimizer_state(self.optimizer, classifier)
        if any(name not in tensors or tensors[name].shape != moment.shape for name, moment in moments.items()):
            raise DataError(f"{checkpoint.path / OPTIMIZER}: not the optimizer of this model")
        for name, moment in moments.items():
            moment.copy_(tensors[name])
        if self.average is not None:
            self.average.load(tensors)
        self.step, self.epochs_done = values["step"], values["epochs_done"]
        if not self.epochs_done * self.steps_per_epoch <= self.step <= (self.epochs_done + 1) * self.steps_per_epoch:
            self.epochs_done = self.step // self.steps_per_epoch  # --allow global_batch: epochs have another length
        if self.accelerator.scaler is not None and values["scaler"]:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.meter.load(values["counted"], self.world.rank, self.world.world_size)
