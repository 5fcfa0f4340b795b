# SPDX-License-Identifier: Apache-2.0
"""``accelerate launch -m tests.helpers.planted FUNCTION RANK …``: training in which a function of the assembly
raises.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from harness import train
from harness.distributed.stopping import run_rank
from padless.core.signals import end_process


class PlantedError(Exception):
    """What no code expects."""


def main(argv: list[str]) -> int:
    """Train as ``harness.train`` does; ``FUNCTION`` of ``harness.training.assembly`` raises on rank ``RANK``."""
    function, rank, *train_arguments = argv
    if os.environ["RANK"] == rank:
        from harness.training import assembly

        def raise_error(*arguments: Any, **keywords: Any) -> None:
            raise PlantedError(f"planted in {function}")

        assert callable(getattr(assembly, function))
        setattr(assembly, function, raise_error)
    return train.main(train_arguments)


if __name__ == "__main__":
    sys.argv[0] = "planted"
    end_process(run_rank(main))
