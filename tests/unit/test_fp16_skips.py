# SPDX-License-Identifier: Apache-2.0
"""In fp16 the loss scaler skips steps by itself; the guard and the counters record each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.ranks.session import Session, open_session
from tests.datasets import write_dataset
from tests.trainers import make_trainer


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A CPU session with loss scaling as in fp16 on CUDA, which accelerate would refuse."""
    with open_session("cpu", "fp32", 60) as opened:
        accelerator = opened.accelerator
        monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu", init_scale=2.0**16))
        monkeypatch.setattr(accelerator, "native_amp", True)
        monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        yield opened


def test_skipped_steps_are_counted(session: Session, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 60, "validation": 10})
    config = RunConfig(
        data=str(tmp_path / "data"),
        run=str(tmp_path / "run"),
        epochs=1,
        global_batch=20,
        model=ModelConfig(embedding_dim=4, hidden_size=4),
        optim=OptimConfig(ema=0.5),
    )
    trainer = make_trainer(config, session)
    classifier = trainer.objective.classifier
    good, bad, _ = trainer.loader.steps(0)
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
