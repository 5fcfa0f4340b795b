# SPDX-License-Identifier: Apache-2.0
"""Adam's memory is there from the start, and changes nothing in what Adam does."""

from __future__ import annotations

import pytest
import torch

from harness.config import OptimConfig
from harness.training.optim import (
    WeightAverage,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
)


def learn(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    for step in range(5):
        optimizer.zero_grad()
        model(torch.full((2, 3), 1.0 + step)).square().sum().backward()
        optimizer.step()


def test_moments_made_ahead_are_those_that_adam_makes() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(lr=0.1, weight_decay=0.01)
    optimizer = build_optimizer(ours, config)
    state = optimizer_state(optimizer, ours)
    assert {name: float(tensor.abs().sum()) for name, tensor in state.items()} == dict.fromkeys(state, 0.0)
    assert len(state) == 6
    groups = [{"params": [theirs.weight], "weight_decay": 0.01}, {"params": [theirs.bias], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.1, fused=True)
    learn(optimizer, ours)
    learn(plain, theirs)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert torch.equal(optimizer.state[ours.weight]["exp_avg_sq"], plain.state[theirs.weight]["exp_avg_sq"])


def test_a_flag_stops_the_optimizer_and_its_count_of_steps() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(model, OptimConfig())
    learn(optimizer, model)
    before = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, model).items()}
    weights = model.weight.detach().clone()
    optimizer.found_inf = torch.ones(())
    learn(optimizer, model)
    assert torch.equal(model.weight, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer_state(optimizer, model).items())
    optimizer.found_inf = None
    learn(optimizer, model)
    assert float(optimizer_state(optimizer, model)["step.weight"]) == 10.0


def test_optimizer_and_average_take_up_what_they_gave() -> None:
    torch.manual_seed(0)
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer, average = build_optimizer(model, OptimConfig()), WeightAverage(model, 0.9)
    learn(optimizer, model)
    average.update(3, torch.zeros(()))
    again, new = build_optimizer(other, OptimConfig()), WeightAverage(other, 0.9)
    load_optimizer_state(again, other, optimizer_state(optimizer, model))
    new.load(average.state())
    assert float(again.state[other.bias]["step"]) == 5.0
    assert torch.equal(again.state[other.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    assert all(torch.equal(left, right) for left, right in zip(new.average, average.average, strict=True))
    with pytest.raises(KeyError):
        load_optimizer_state(again, other, {})
