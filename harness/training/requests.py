# SPDX-License-Identifier: Apache-2.0
"""What one rank asks of all (stop, save, fail), heard by every rank at the same step.

After every step each rank starts an asynchronous all-reduce of three integers on the gloo control group, and reads it
after the next step. The messages never touch the gradients' path, never wait for a device, and are the same on CPUs and
GPUs: what is asked for at step k is heard by all ranks at step k + 1.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum

import numpy as np

from harness.ranks.distributed import PendingMaximum, World


class RankRequest(IntEnum):
    """What a rank can ask of all."""

    STOP = 0
    """Save and leave."""
    SAVE = 1
    """A checkpoint is due."""
    FAIL = 2
    """A rank has an error to raise, which only all together can."""


class RankRequests:
    """The requests of this rank and of all others; every rank calls ``receive`` and ``send`` at the same steps."""

    def __init__(self, world: World) -> None:
        """Nothing is on its way yet."""
        self.world = world
        self.pending: PendingMaximum | None = None
        self.own: set[RankRequest] = set()
        """What a rank without others has to tell itself."""

    def send(self, wanted: Collection[RankRequest], step: int) -> None:
        """Start telling all ranks what this one wants after ``step``; does not wait."""
        if self.world.world_size == 1:
            self.own = set(wanted)
            return
        flags = np.array([int(request in wanted) for request in RankRequest])
        self.pending = self.world.start_maximum(flags, f"the requests of step {step}")

    def receive(self) -> set[RankRequest]:
        """What any rank wanted at the last ``send``: the same set on every rank. Empty if nothing was sent since."""
        heard, self.own = self.own, set()
        if self.pending is not None:
            pending, self.pending = self.pending, None
            heard = {request for request, flag in zip(RankRequest, pending.read(), strict=True) if flag}
        return heard
