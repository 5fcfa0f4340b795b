# SPDX-License-Identifier: Apache-2.0
"""``accelerate launch -m tests.gpu.one_card …``: training whose ranks share one card, which no user can ask for.

The product refuses more processes than there are cards, and NCCL refuses two ranks on one. This switch for tests is all
outside of it: every rank takes card 0, gradients go over gloo, and each says at which step it saves.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

from harness import train
from harness.ranks.exit import leave, run_rank


def share_one_card() -> None:
    """Patch what ``harness.ranks.session`` asks for device and process group, and what a run does when it saves."""
    os.environ["LOCAL_RANK"] = "0"
    from harness.ranks import session
    from harness.ranks.precision import Choice
    from harness.training.run import Run

    def first_card(wanted: str, *more: Any) -> Choice:
        return Choice("cpu" if wanted == "cpu" else "cuda", "a test of several ranks on one device")

    assert callable(session.choose_device)
    session.choose_device = first_card
    session.InitProcessGroupKwargs = partial(session.InitProcessGroupKwargs, backend="gloo")
    save = Run.save

    def told(self: Run, **options: Any) -> None:
        sys.stdout.write(f"rank {self.session.world.rank} saves at step {self.trainer.step}\n")
        sys.stdout.flush()
        save(self, **options)

    Run.save = told  # type: ignore[method-assign]


def main(argv: list[str]) -> int:
    """Train as ``harness.train`` does."""
    share_one_card()
    return train.main(argv)


if __name__ == "__main__":
    sys.argv[0] = "one_card"
    leave(run_rank(main))
