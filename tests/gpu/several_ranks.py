# SPDX-License-Identifier: Apache-2.0
"""``accelerate launch -m tests.gpu.several_ranks …``: training whose ranks say what they hold whenever they save.

Where a machine has fewer cards than ranks, all share card 0, which no user can ask for: the product refuses more
processes than there are cards, and NCCL refuses two ranks on one. This switch for tests is all outside of it: every
rank takes card 0, and gradients go over gloo. ``PADLESS_TEST_OOM=1:20`` has rank 1 run out of memory at step 20.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import partial
from typing import Any

import torch

from harness import train
from harness.batch import StepBatch
from harness.config import Choice
from harness.ranks.stopping import leave, run_rank


def share_one_card() -> None:
    """Patch what ``harness.ranks.session`` asks for device and process group."""
    os.environ["LOCAL_RANK"] = "0"
    from harness.ranks import session

    def first_card(wanted: str, *more: Any) -> Choice:
        return Choice("cpu" if wanted == "cpu" else "cuda", "a test of several ranks on one device")

    assert callable(session.choose_device)
    session.choose_device = first_card
    session.InitProcessGroupKwargs = partial(session.InitProcessGroupKwargs, backend="gloo")


def say_what_is_held() -> None:
    """Patch what a run does when it saves: each rank says at which step, and a hash of its weights and tables."""
    from harness.training.run import Run

    save = Run.save

    def told(self: Run, **options: Any) -> None:
        held = hashlib.sha256()
        for tensor in self.trainer.objective.classifier.state_dict().values():
            held.update(tensor.cpu().numpy().tobytes())
        rank = self.session.world.rank
        sys.stdout.write(f"rank {rank} saves at step {self.trainer.step}, holding {held.hexdigest()}\n")
        sys.stdout.flush()
        save(self, **options)

    Run.save = told  # type: ignore[method-assign]


def run_out_of_memory(step: int) -> None:
    """Patch a step of the trainer: it asks for more than any card has."""
    from harness.training.trainer import Trainer

    update = Trainer.update

    def greedy(self: Trainer, batch: StepBatch) -> Any:
        if self.step == step:
            sys.stdout.write("now out of memory\n")
            sys.stdout.flush()
            if self.device.type == "cuda":
                torch.empty(1 << 50, dtype=torch.uint8, device=self.device)
            raise torch.OutOfMemoryError("a test asks for a petabyte")
        return update(self, batch)

    Trainer.update = greedy  # type: ignore[method-assign]


def main(argv: list[str]) -> int:
    """Train as ``harness.train`` does."""
    rank, _, step = os.environ.get("PADLESS_TEST_OOM", "").partition(":")
    if os.environ["RANK"] == rank:
        run_out_of_memory(int(step))
    if torch.cuda.device_count() < int(os.environ["LOCAL_WORLD_SIZE"]):
        share_one_card()
    say_what_is_held()
    return train.main(argv)


if __name__ == "__main__":
    sys.argv[0] = "several_ranks"
    leave(run_rank(main))
