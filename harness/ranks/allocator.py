# SPDX-License-Identifier: Apache-2.0
"""Memory that stays with a process that trains on the CPU, instead of going back to the kernel at every step.

glibc maps a large block when it is asked for one and unmaps it when it is freed, and the kernel hands every page of the
next one out anew, filled with zeros (mallopt(3)). An LSTM needs such blocks for the gates of each batch: on two cores,
at batch 64, a third of a step went into these pages.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3), from malloc.h."""
NEVER = -1


def keep_memory() -> bool:
    """Have malloc reuse freed blocks of any size; False where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
