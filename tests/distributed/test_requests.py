# SPDX-License-Identifier: Apache-2.0
"""Stop, save and fail requests are heard by all ranks at one step, and each of them once."""

from __future__ import annotations

import random
import time

import pytest

from harness.ranks.session import open_session
from harness.training.run import RankRequest, RankRequests
from tests.ranks import run_ranks

STEPS = 40
pytestmark = pytest.mark.processes


def hear(asked: dict[int, dict[int, RankRequest]]) -> list[tuple[int, list[str]]]:
    """Run some steps of uneven length; what this rank heard, and at which step. ``asked``: rank -> step -> request."""
    heard = []
    with open_session("cpu", "fp32", 30) as session:
        requests, mine = RankRequests(session.world), asked.get(session.world.rank, {})
        dice = random.Random(session.world.rank)
        for step in range(STEPS):
            time.sleep(dice.random() * 0.005)
            if found := requests.receive():
                heard.append((step, sorted(request.name for request in found)))
            requests.send({mine[step]} if step in mine else set(), step)
        assert requests.receive() == set()
        assert requests.receive() == set()
    return heard


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_requests_are_heard_by_all_at_the_next_step(world_size: int) -> None:
    last = world_size - 1
    asked = {0: {3: RankRequest.SAVE, 20: RankRequest.FAIL}}
    asked.setdefault(last, {}).update({10: RankRequest.STOP})
    if world_size > 1:
        asked[last][20] = RankRequest.SAVE
    together = ["FAIL", "SAVE"] if world_size > 1 else ["FAIL"]
    expected = [(4, ["SAVE"]), (11, ["STOP"]), (21, together)]
    found = [hear(asked)] if world_size == 1 else run_ranks(hear, world_size, asked, timeout_s=60)
    assert found == [expected] * world_size
