# SPDX-License-Identifier: Apache-2.0
"""``bench train`` on short texts: what it prints, and that all contenders learn. Figures are no test's business."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.bench import render_contenders, short
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import TRAIN
from harness.ranks.session import Session, open_session
from preprocessing.dataset.shards import Split

TINY = ModelConfig(embedding_dim=4, hidden_size=4)


@pytest.fixture
def session() -> Session:
    with open_session("cpu", "fp32", 60) as opened:
        yield opened


@pytest.mark.processes  # the machine is asked for its name
def test_every_contender_takes_its_turns_on_one_thread(session: Session) -> None:
    torch.set_num_threads(2)
    values = short.measure(session, TINY, rounds=1, steps=2)
    assert torch.get_num_threads() == 2
    assert values["unit"] == "steps/s"
    assert set(values["ratios"]) == {short.PADDED, short.PACKED}
    assert values["ratios"][short.PADDED] == pytest.approx(values["ours"] / values["peers"][short.PADDED])
    lines = render_contenders("short texts", values).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [
        "1.00",
        *(f"{ratio:.2f}" for ratio in values["ratios"].values()),
    ]


def test_ours_takes_as_many_steps_as_it_is_told(session: Session, tmp_path: Path) -> None:
    manifest = short.made_up(tmp_path)
    config = RunConfig(epochs=10, global_batch=short.BATCH, model=TINY)
    fit = short.Fit(short.real_trainer(config, session, Split(tmp_path, manifest, TRAIN), manifest))
    for told in (3, 127, 1):  # an epoch has 128 steps
        before = fit.trainer.step
        fit(told)
        assert fit.trainer.step == before + told


@pytest.mark.parametrize("packed", [False, True])
def test_the_plain_loops_learn(session: Session, tmp_path: Path, packed: bool) -> None:
    manifest = short.made_up(tmp_path)
    config = RunConfig(global_batch=short.BATCH, model=TINY, optim=OptimConfig(ema=0.9))
    loop = short.PlainLoop(config, session, Split(tmp_path, manifest, TRAIN), packed=packed)
    before = [parameter.detach().clone() for parameter in loop.parameters]
    rows = torch.arange(short.BATCH)
    for _ in range(2):
        loop(2)
    assert loop.step == 4
    moved = [
        float((parameter.detach() - old).abs().max()) for parameter, old in zip(loop.parameters, before, strict=True)
    ]
    assert all(0 < distance < 0.01 for distance in moved)
    assert float(loop._loss(rows).detach()) == pytest.approx(0.69, abs=0.2)
