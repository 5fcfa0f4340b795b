# SPDX-License-Identifier: Apache-2.0
"""``accelerate launch -m harness.pretrain``: ``harness.train`` of a language model, for a classifier to start from."""

from __future__ import annotations

from harness import train
from harness.config import LANGUAGE_MODEL
from harness.ranks.stopping import leave, run_rank


def main(argv: list[str]) -> int:
    """Pretrain on this rank; returns the exit code."""
    return train.main([*argv, f"--task={LANGUAGE_MODEL}"])


if __name__ == "__main__":
    leave(run_rank(main))
