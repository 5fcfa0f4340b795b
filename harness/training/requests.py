# SPDX-License-Identifier: Apache-2.0
"""What one rank wants and all learn at the same step, without a message of its own.

A wish is a number that travels with the gradients: the objective has a parameter that changes nothing and whose
gradient is the wish, and DDP's all-reduce adds it up over ranks as it does every gradient. On CUDA the host reads a
step's wishes a fixed number of steps later, when they have long been copied, and so never waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum

import torch

from harness.model.classifier import Objective
from harness.training.guard import LAG_STEPS


class Wish(IntEnum):
    """What a rank can ask of all."""

    STOP = 0
    """Save and leave."""
    SAVE = 1
    """A checkpoint is due."""
    FAIL = 2
    """A rank has an error to raise, which only all together can."""


@dataclass
class Answer:
    """The wishes of one step, on their way to the host."""

    summed: torch.Tensor
    copied: torch.cuda.Event | None

    def read(self) -> set[Wish]:
        """What was wished for on any rank."""
        if self.copied is not None:
            self.copied.synchronize()
        return {wish for wish in Wish if self.summed[wish] > 0}


class Agreement:
    """The wishes of this rank and of all. With one process nothing is sent."""

    def __init__(self, objective: Objective, world_size: int, device: torch.device) -> None:
        """Call before the objective is wrapped for DDP: it may gain the parameter that carries wishes."""
        self.objective = objective
        self.mine: set[Wish] = set()
        self.answers: deque[Answer] = deque()
        self.alone = world_size == 1
        self.sent = False
        if not self.alone:
            objective.carry_wishes(len(Wish), device)

    def ask(self, wish: Wish) -> None:
        """Want something from the next step on."""
        self.mine.add(wish)

    def send(self) -> None:
        """Before a step's backward pass: let the gradients carry what this rank wants."""
        if self.alone or not (self.mine or self.sent):
            return
        assert self.objective.wished is not None
        self.objective.wished.copy_(torch.tensor([float(wish in self.mine) for wish in Wish]))
        self.sent = bool(self.mine)
        self.mine = set()

    def receive(self) -> set[Wish]:
        """After a step's backward pass: what any rank wanted, the same set on every rank at the same step."""
        if self.alone:
            wishes, self.mine = self.mine, set()
            return wishes
        carrier = self.objective.wishes
        assert carrier is not None
        assert carrier.grad is not None
        self.answers.append(self._copy(carrier.grad))
        carrier.grad = None
        lag = LAG_STEPS if self.answers[-1].copied is not None else 0
        return self.answers.popleft().read() if len(self.answers) > lag else set()

    def flush(self) -> set[Wish]:
        """What is still on its way; at the end of an epoch, where all ranks are."""
        wishes: set[Wish] = set()
        while self.answers:
            wishes |= self.answers.popleft().read()
        return wishes

    def _copy(self, summed: torch.Tensor) -> Answer:
        if summed.device.type != "cuda":
            return Answer(summed.clone(), None)
        host = torch.empty(summed.shape, dtype=summed.dtype, pin_memory=True)
        host.copy_(summed, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return Answer(host, event)
