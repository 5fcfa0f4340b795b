# SPDX-License-Identifier: Apache-2.0
"""A step whose gradient is not finite changes nothing on any rank, and its rows are written to ``bad_batches``.

After ``nan_limit`` of them in a row the run ends.

The norm of the averaged gradient is the same number on every rank, so all of them agree without a message. The fused
optimizer takes the verdict as a tensor and skips the update on the device. The host reads a step's verdict a fixed
number of steps later on CUDA, when it has long been copied, and so never waits; all ranks read it at the same step.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.batch import StepBatch
from harness.ranks.distributed import World
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


@dataclass
class Verdict:
    """What is known of one step until the host has read whether it was skipped."""

    step: int
    rows: list[np.ndarray]
    """Source rows of each micro-batch of this rank, unlabelled ones last."""
    unlabelled: list[bool]
    """Of each micro-batch: whether its rows have no labels."""
    losses: list[torch.Tensor]
    """Row losses of each micro-batch, on the device."""
    skipped: torch.Tensor
    """0 or 1, on the host, valid once ``copied`` has passed."""
    copied: torch.cuda.Event | None

    def was_skipped(self) -> bool:
        """Whether the step changed nothing."""
        if self.copied is not None:
            self.copied.synchronize()
        return bool(self.skipped)


class NonFiniteGuard:
    """Watches one run on one rank."""

    def __init__(
        self,
        limit: int,
        world: World,
        directory: Path,
        split: Split,
        data: Path,
        num_classes: int = 2,
        unlabelled: Split | None = None,
    ) -> None:
        """Stop after ``limit`` skipped steps in a row; write rows of ``split``, and of ``unlabelled``, to
        ``directory``/bad_batches.
        """
        self.unlabelled = unlabelled
        self.num_classes = num_classes
        self.limit, self.world = limit, world
        self.directory, self.split, self.data = directory, split, data
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
        micro_batches = [*batch.micro_batches, *batch.unlabelled]
        rows, unlabelled = [micro.rows for micro in micro_batches], [not micro.labelled for micro in micro_batches]
        self.pending.append(Verdict(step, rows, unlabelled, losses, skip, event))
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
            skipped = verdict.was_skipped()
            losses = torch.cat(verdict.losses).double().cpu().numpy() if skipped else np.empty(0)
        if not skipped:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        bad = ~np.isfinite(losses)
        found = sum(self.world.gather_objects(int(bad.sum()), "the rows of a skipped step"))
        with self.world.together("writing the rows of a skipped step"), storage(self.directory):
            self._write_rows(verdict, losses, bad if found else np.ones_like(bad))
        if self.world.is_main:
            rows = f"rows in {self.directory / BAD_BATCHES}"
            warning = f"warning: step {verdict.step}: the gradient was not finite; skipped, {rows}"
            Screen(errors=True).say(warning, "warn")
        if self.in_a_row >= self.limit:
            with self.world.together("stopping for gradients that are not finite"):
                raise ConfigError(
                    f"optim.lr: the gradient was not finite in {self.in_a_row} steps in a row, up to step "
                    f"{verdict.step}; lower optim.lr (now {lr:g}) or look at the rows in {self.directory / BAD_BATCHES}"
                )

    def _write_rows(self, verdict: Verdict, losses: np.ndarray, chosen: np.ndarray) -> None:
        """Each rank writes those of its rows whose loss is not finite; all if no rank has one."""
        rows = np.concatenate(verdict.rows)
        if chosen.any():
            beside = np.repeat(verdict.unlabelled, [len(part) for part in verdict.rows])
            described = []
            for split, own in ((self.split, chosen & ~beside), (self.unlabelled, chosen & beside)):
                if split is not None and own.any():
                    described += describe_rows(split, self.data, rows[own], losses[own])
            write_bad_rows(self.directory, verdict.step, self.world.rank, described)


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
    wanted = {int(row): float(loss) for row, loss in zip(rows, losses, strict=True)}
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
