# SPDX-License-Identifier: Apache-2.0
"""In fp16 the loss scaler skips steps by itself; the guard, the counters and the bad rows know of each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.model.classifier import Classifier, Objective
from harness.ranks.session import Session, open_session
from harness.rundir.layout import BAD_BATCHES
from harness.training.guard import NonFiniteGuard
from harness.training.throughput import Meter, StepProfiler
from harness.training.trainer import Trainer
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

SCALE = 2.0**16


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A CPU that scales the loss as fp16 on CUDA does: accelerate would refuse it."""
    with open_session("cpu", "fp32", 60) as opened:
        accelerator = opened.accelerator
        monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=SCALE))
        monkeypatch.setattr(accelerator, "native_amp", True)
        monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        yield opened


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_skipped_steps_are_counted_and_their_rows_written(
    session: Session, tmp_path: Path, clip_norm: float | None
) -> None:
    write_dataset(tmp_path / "data", {"train": 60, "validation": 10})
    manifest = read_manifest(tmp_path / "data")
    split = Split(tmp_path / "data", manifest, "train")
    config = RunConfig(
        epochs=1,
        global_batch=20,
        model=ModelConfig(embedding_dim=4, hidden_size=4),
        optim=OptimConfig(clip_norm=clip_norm, ema=0.5),
    )
    loader = Loader(
        split,
        order_over(split, OrderSpec(seed=0, global_batch=20)),
        rank=0,
        world_size=1,
        layout="padded",
        device=session.device,
    )
    torch.manual_seed(0)
    classifier = Classifier(config.model, manifest.vocabulary_size)
    trainer = Trainer(
        config,
        Objective(classifier),
        loader,
        session.accelerator,
        session.world,
        guard=NonFiniteGuard(2, session.world, tmp_path / "run", split, tmp_path / "data"),
        meter=Meter(),
        profiler=StepProfiler([], tmp_path),
    )
    good, bad, worse = list(loader.steps(0))
    weights = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    trainer.update(good)
    assert (trainer.guard.total, trainer.meter.counted.skipped) == (0, 0)
    assert not torch.equal(classifier.head.weight, weights["head.weight"])
    weights = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    assert trainer.average is not None
    averages = {name: tensor.clone() for name, tensor in trainer.average.state().items()}
    classifier.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer.step = 1
    trainer.update(bad)
    assert (trainer.guard.total, trainer.guard.in_a_row, trainer.meter.counted.skipped) == (1, 1, 1)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in classifier.state_dict().items())
    assert all(torch.equal(tensor, averages[name]) for name, tensor in trainer.average.state().items())
    assert not torch.equal(averages["average.head.weight"], weights["head.weight"])
    lines = (tmp_path / "run" / BAD_BATCHES / "step-00000001-rank0.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["row"] for line in lines) == sorted(bad.micro_batches[0].rows.tolist())
    trainer.step = 2
    with pytest.raises(ConfigError, match="the gradient was not finite in 2 steps in a row, up to step 2"):
        trainer.update(worse)
    assert session.accelerator.scaler is not None
    assert session.accelerator.scaler.get_scale() == SCALE / 4
