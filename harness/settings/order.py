# SPDX-License-Identifier: Apache-2.0
"""Keys of the order of rows."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.base.errors import require


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Which rows meet in a batch; with the dataset, seed and global batch this decides the order of every row."""

    length_noise: float = 0.003
    """Lengths are blurred by up to this share before sorting, so that neighbours change from epoch to epoch."""
    unlabelled_batch: int = 0
    """Unlabelled rows of every step over all processes, beside the labelled ones and in an order of their own."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 <= self.length_noise <= 1, "order.length_noise", self.length_noise, "from 0 to 1")
        require(self.unlabelled_batch >= 0, "order.unlabelled_batch", self.unlabelled_batch, "at least 0")
