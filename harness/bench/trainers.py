# SPDX-License-Identifier: Apache-2.0
"""The real trainer, loader and order for a bench, put together as in a run of one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from harness.config import RunConfig
from harness.data.checks import order_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.model.classifier import Classifier, Objective
from harness.ranks.precision import DTYPES, layout_on, recurrent_dtype
from harness.ranks.session import Session
from harness.training.guard import NonFiniteGuard
from harness.training.profiling import StepProfiler
from harness.training.throughput import Meter
from harness.training.trainer import Trainer
from preprocessing.dataset.shards import Manifest, Split


def real_trainer(config: RunConfig, session: Session, split: Split, manifest: Manifest) -> Trainer:
    """A trainer at step 0 over the rows of ``split``; it writes nothing."""
    device, classes = session.device, len(manifest.labels)
    layout, _ = layout_on(device, config.model.hidden_size)
    order = order_over(split, order_spec(config))
    torch.manual_seed(config.seed)
    classifier = Classifier(config.model, manifest.vocabulary_size, classes).to(device)
    classifier.recurrent.flatten_parameters()
    dtype = recurrent_dtype(session.arithmetic, device.type, layout).value
    nowhere = Path(tempfile.gettempdir())
    return Trainer(
        config,
        Objective(classifier, seed=config.seed, recurrent_dtype=DTYPES[dtype]),
        Loader(split, order, rank=0, world_size=1, layout=layout, device=device),
        session.accelerator,
        session.world,
        guard=NonFiniteGuard(config.nan_limit, session.world, nowhere, split, Path(config.data), classes),
        meter=Meter(device),
        profiler=StepProfiler([], nowhere),
    )
