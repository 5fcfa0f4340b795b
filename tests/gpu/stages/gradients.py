# SPDX-License-Identifier: Apache-2.0
"""Each parameter's gradient, in every precision and for three global batches, against fp64 on the CPU."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch

from harness.batch import StepBatch
from harness.config import ModelConfig, RunConfig
from harness.model.classifier import Objective
from harness.ranks.precision import runnable
from harness.training.trainer import Trainer
from tests.batches import loader_of
from tests.gpu.corpus import MEDIAN
from tests.gpu.findings import Findings, Setting
from tests.trainers import lstm_dtypes, make_trainer, session_for

LIMITS = {"fp32": 2e-3, "tf32": 0.05, "bf16": 0.25, "fp16": 0.1}
"""Largest error of a parameter's gradient, relative to its norm: rounding moves the maximum of max pooling elsewhere,
which changes whole entries, so that bf16 is far from its 2**-9."""
LOST_LIMIT = 0.02
"""Largest share of a gradient's entries that may be 0 where fp64 has another number."""
MICRO_BATCH = 256
LOOKED_AT = 12
Gradients = dict[str, torch.Tensor]


def run(setting: Setting, findings: Findings) -> None:
    """The same weights, rows and dropout in every precision; fp64 is computed once for each batch."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))  # fp64 is not to starve the stages beside this one
    batches, size = ((64, 128), 16) if setting.small else ((64, 512, 4096), 128)
    exact: dict[int, Gradients] = {}
    for precision in LIMITS:
        if precision not in runnable(setting.device):
            findings.add(precision, f"skipped: this {setting.device} device cannot compute in it")
            continue
        for rows in batches:
            config = configuration(setting, precision, rows, size)
            with session_for(config) as session:
                trainer = make_trainer(config, session)
                step = typical_step(trainer)
                if rows not in exact:
                    exact[rows] = in_fp64(trainer, step)
                with lstm_dtypes() as dtypes:
                    found = in_this_precision(trainer, step)
            if rows == batches[0]:
                names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
                wanted = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}.get(precision)
                right = dtypes == {wanted} if wanted else not dtypes & {torch.float16}
                findings.add(f"{precision}: dtype of the LSTM's output", names, right)
            compare(findings, f"{precision}, global batch {rows}", precision, found, exact[rows])


def configuration(setting: Setting, precision: str, rows: int, size: int) -> RunConfig:
    """Two layers of all that a gradient passes."""
    shape = ModelConfig(
        embedding_dim=size, hidden_size=size, num_layers=1, pooling="max+mean", dropout=0.2, word_dropout=0.1
    )
    return RunConfig(
        data=str(setting.data),
        run=str(setting.scratch / "run"),
        device=setting.device,
        precision=precision,  # type: ignore[arg-type]
        global_batch=rows,
        model=shape,
    )


def typical_step(trainer: Trainer) -> int:
    """The step, among the first, whose longest row is the nearest to the median."""
    order, split = trainer.loader.order, trainer.loader.split
    longest = []
    for step in range(min(LOOKED_AT, order.steps_per_epoch)):
        row = order.batch_rows(0, step)[0]
        block = int(np.searchsorted(split.block_starts, row, side="right")) - 1
        longest.append(int(split.blocks[block].length[row - split.block_starts[block]]))
    return int(np.argmin([abs(length - MEDIAN) for length in longest]))


def in_fp64(trainer: Trainer, step: int) -> Gradients:
    """On the CPU, padded, in micro-batches that fit into its memory."""
    theirs = trainer.loader
    loader = loader_of(theirs.split, theirs.order, micro_batch=MICRO_BATCH)
    objective = Objective(copy.deepcopy(trainer.objective.classifier).cpu().double(), seed=trainer.objective.seed)
    with torch.autocast("cpu", enabled=False):
        for batch in loader.steps(0, step, step + 1):
            for micro_batch in batch.micro_batches:
                (objective(micro_batch, step) / batch.global_rows).backward()
    return gradients_of(objective)


def in_this_precision(trainer: Trainer, step: int) -> Gradients:
    """As ``Trainer.update`` computes them, before clipping; in fp16 with a loss scale that overflows nowhere."""
    (batch,) = list(trainer.loader.steps(0, step, step + 1))
    while True:
        trainer.optimizer.zero_grad(set_to_none=True)
        backward(trainer, batch, step)
        found = gradients_of(trainer.objective)
        scaler = trainer.accelerator.scaler
        finite = all(bool(gradient.isfinite().all()) for gradient in found.values())
        if scaler is None or finite or scaler.get_scale() < 2:
            return found
        scaler.update()


def backward(trainer: Trainer, batch: StepBatch, step: int) -> None:
    """Forward, backward, and the loss scale taken out again."""
    for micro_batch in batch.micro_batches:
        trainer.accelerator.backward(trainer.model(micro_batch, step) / batch.global_rows)
    trainer.accelerator.unscale_gradients(trainer.optimizer)


def gradients_of(objective: Objective) -> Gradients:
    """Copies on the CPU in fp64."""
    named = objective.classifier.named_parameters()
    return {name: weight.grad.detach().cpu().double() for name, weight in named if weight.grad is not None}


def compare(findings: Findings, name: str, precision: str, found: Gradients, exact: Gradients) -> None:
    """One line: the parameter that is farthest off, and the one that lost most entries to 0."""
    assert found.keys() == exact.keys()
    errors = {name: float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact}
    lost = {
        name: float(((found[name] == 0) & (exact[name] != 0)).sum() / (exact[name] != 0).sum().clamp(min=1))
        for name in exact
    }
    far, most = max(errors, key=lambda name: errors[name]), max(lost, key=lambda name: lost[name])
    findings.figure(name, {"errors": errors, "lost": lost})
    findings.add(
        name,
        f"largest error {errors[far]:.1e} ({far}), at most {lost[most]:.1%} lost to 0 ({most})",
        errors[far] <= LIMITS[precision] and lost[most] <= LOST_LIMIT,
    )
