# SPDX-License-Identifier: Apache-2.0
"""Memory stays with a process that asks for it: blocks that were used before come back without fresh pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

TURNS, BYTES, PAGE = 5, 100 << 20, 4096
PROGRAM = f"""
import resource, sys
import numpy as np
from harness.ranks.allocator import keep_memory

kept = keep_memory() if sys.argv[1] == "keep" else None
np.ones({BYTES}, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range({TURNS}):
    np.ones({BYTES}, np.uint8)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt(3)")
@pytest.mark.parametrize("keep", [True, False])
def test_fresh_pages_of_large_blocks(keep: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, "keep" if keep else "default"]
    kept, faults = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert kept == str(True if keep else None)
    if keep:
        assert int(faults) < 100
    else:  # at least one a huge page of 2 MiB, at most one a page
        assert BYTES / (2 << 20) <= int(faults) / TURNS <= BYTES / PAGE + 100
