# SPDX-License-Identifier: Apache-2.0
"""Puts a trainer together on this rank: model, loader, guard, meter; the parts know nothing of each other's making."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from harness.config import RunConfig
from harness.data.checks import TRAIN, order_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.residency import OpenData
from harness.model.classifier import Classifier, Objective
from harness.ranks.precision import Choice
from harness.ranks.session import Session
from harness.rundir.layout import PROFILE
from harness.training.flops import flops_per_token, measure_peak
from harness.training.guard import NonFiniteGuard
from harness.training.probe import choose_micro_batch, heaviest_step
from harness.training.profiling import StepProfiler
from harness.training.throughput import Meter
from harness.training.trainer import Milestones, Trainer
from preprocessing.dataset.shards import Manifest

FP16_FIRST_SKIPS = 20
"""fp16 starts with a large loss scale and finds the right one by skipping steps; those are no sign of divergence."""


def build_trainer(
    config: RunConfig,
    session: Session,
    manifest: Manifest,
    data: OpenData,
    choices: dict[str, Choice],
    milestones: Milestones,
) -> Trainer:
    """A trainer at step 0 with weights drawn from the seed; what was decided on the way is added to ``choices``."""
    world, directory = session.world, Path(config.run)
    torch.manual_seed(config.seed)
    classifier = Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))
    classifier.to(session.device).recurrent.flatten_parameters()
    weights = [config.optim.class_weights.get(label, 1.0) for label in manifest.labels]
    objective = Objective(
        classifier,
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
        class_weights=torch.tensor(weights, device=session.device) if config.optim.class_weights else None,
    )
    peak = measure_peak(session.device, choices["precision"].value)
    peaks = world.gather_numbers(np.array([peak]), "measuring the devices")
    choices["peak"] = Choice(f"{peaks.sum() / 1e9:,.0f} GFLOP/s", "a matrix product, all processes together")
    limit = config.nan_limit + (FP16_FIRST_SKIPS if choices["precision"].value == "fp16" else 0)
    return Trainer(
        config,
        objective,
        build_loader(config, session, data, objective, choices),
        session.accelerator,
        world,
        guard=NonFiniteGuard(limit, world, directory, data.splits[TRAIN], Path(config.data), len(manifest.labels)),
        meter=Meter(session.device, flops_per_token(config.model), float(peaks.sum())),
        profiler=StepProfiler(config.profile if world.is_main else [], directory / PROFILE),
        milestones=milestones,
    )


def build_loader(
    config: RunConfig, session: Session, data: OpenData, objective: Objective, choices: dict[str, Choice]
) -> Loader:
    """The loader of the training rows, with the micro-batch that was given or that fits."""
    split = data.splits[TRAIN]
    loader = Loader(
        split,
        order_over(split, order_spec(config)),
        rank=session.world.rank,
        world_size=session.world.world_size,
        layout=session.layout,
        device=session.device,
        micro_batch=None if config.micro_batch == "auto" else config.micro_batch,
        resident=data.rows,
        guard=data.guard.check_sizes,
    )
    if config.micro_batch == "auto":
        fit_micro_batch(loader, objective, session, config, choices)
    return loader


def fit_micro_batch(
    loader: Loader, objective: Objective, session: Session, config: RunConfig, choices: dict[str, Choice]
) -> None:
    """Give the loader the micro-batch with which the longest batch fits."""
    step = longest_step(loader)

    def attempt(rows: int) -> None:
        loader.micro_batch = rows
        (batch,) = loader.steps(0, step, step + 1)
        for micro_batch in batch.micro_batches:
            with session.accelerator.autocast():
                loss = objective(micro_batch, step=0)
            loss.backward()
        objective.zero_grad(set_to_none=True)

    share = -(-config.global_batch // session.world.world_size)
    loader.micro_batch, choices["micro_batch"] = choose_micro_batch(share, attempt, session.world, session.device)


def longest_step(loader: Loader) -> int:
    """The step of the first epoch that needs the most memory."""
    starts, blocks = loader.split.block_starts, loader.split.blocks

    def longest(row: int) -> int:
        block = int(np.searchsorted(starts, row, side="right")) - 1
        return int(blocks[block].length[row - starts[block]])

    return heaviest_step(loader.order, longest)
