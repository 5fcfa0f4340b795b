# SPDX-License-Identifier: Apache-2.0
"""Two streams of rows in each step: labelled ones, whose passes are the epochs, and unlabelled ones beside them.

The unlabelled rows have an order of their own, which is the same code with another seed. Their passes begin and end
where they will, and which of them are in step ``k`` of a run is a function of (seed, ``k``) alone, as it is for the
labelled ones (law 3). So nothing has to be saved to go on from any step, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

from harness.batch import StepBatch
from harness.data.loader import Loader
from harness.data.order import Order
from preprocessing.dataset.shards import Split


class PairedLoader(Loader):
    """A loader of labelled rows whose steps hold unlabelled rows too, which a thread of their own prefetches."""

    def __init__(self, split: Split, order: Order, *, unlabelled: Loader, **options: Any) -> None:
        """``split``, ``order`` and ``options`` are those of the labelled rows; ``unlabelled`` loads the others.

        Both are cut into micro-batches of at most as many rows.
        """
        super().__init__(split, order, **options)
        self.unlabelled = unlabelled

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Generator[StepBatch, None, None]:
        """As of any loader; a step waits for the slower one of two threads that work beside each other."""
        per_epoch = self.order.steps_per_epoch
        stop = per_epoch if last_step is None else last_step
        self.unlabelled.micro_batch = self.micro_batch
        before = epoch * per_epoch
        unlabelled = self.unlabelled.stretch(before + first_step, before + stop)
        with unlabelled as beside, closing(super().steps(epoch, first_step, stop)) as labelled:
            for step, other in zip(labelled, beside, strict=True):
                step.take_unlabelled(other)
                yield step
