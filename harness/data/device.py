# SPDX-License-Identifier: Apache-2.0
"""A whole split's tokens on the device: only row numbers cross the bus at each step, and the device gathers."""

from __future__ import annotations

import numpy as np
import torch

from harness.batch import send
from preprocessing.dataset.shards import Split


class DeviceRows:
    """Every row's real tokens, end to end, in the narrow type of the shards; no padding is stored."""

    def __init__(self, split: Split, device: torch.device) -> None:
        """Copy the split's tokens to ``device``, one record batch at a time."""
        self.device = device
        lengths = np.concatenate([block.length for block in split.blocks])
        self.starts = np.cumsum(lengths, dtype=np.int64) - lengths
        """int64 ``[rows]``, on the CPU: where each row's tokens begin."""
        narrow = split.blocks[0].ids.dtype
        dtype = torch.int16 if narrow == np.uint16 else torch.int32
        self.tokens = torch.empty(int(lengths.sum()), dtype=dtype, device=device)
        filled = 0
        for block in split.blocks:
            real = block.ids[np.arange(block.ids.shape[1]) < block.length[:, None]]
            piece = torch.from_numpy(real.view(np.int16) if narrow == np.uint16 else real)
            self.tokens[filled : filled + len(piece)] = piece.to(device)
            filled += len(piece)
        if device.type == "cuda":  # the loader reads on a stream of its own, which would not wait for this one
            torch.cuda.current_stream(device).synchronize()

    def padded(self, rows: np.ndarray, length: np.ndarray) -> torch.Tensor:
        """Narrow ids ``[rows, time]`` of global ``rows`` with the lengths int64 ``[rows]``; zero beyond each length."""
        start, lengths = send(torch.from_numpy(np.stack((self.starts[rows], length))), self.device)
        time = torch.arange(int(length.max()), device=self.device)
        place = (start[:, None] + time).clamp_(max=len(self.tokens) - 1)
        return self.tokens[place].masked_fill_(time >= lengths[:, None], 0)

    def packed(self, rows: np.ndarray, length: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Narrow ids ``[tokens]``, time-major, and batch sizes int64 ``[time]``; ``length`` must not ascend.

        The device never has to say how many tokens there are, so nothing waits for it.
        """
        ended = np.cumsum(np.bincount(length, minlength=int(length.max()) + 1))
        sizes = len(length) - ended[: int(length.max())]
        total = int(length.sum())
        start = send(torch.from_numpy(self.starts[rows]), self.device)
        before, counts = send(torch.from_numpy(np.stack((np.cumsum(sizes) - sizes, sizes))), self.device)
        steps = torch.arange(len(sizes), device=self.device)
        time = torch.repeat_interleave(steps, counts, output_size=total)
        row = torch.arange(total, device=self.device) - before[time]
        return self.tokens[start[row] + time], sizes
