# SPDX-License-Identifier: Apache-2.0
"""How much memory this machine has, or the container around this process."""

from __future__ import annotations

import os
from pathlib import Path


def memory_bytes(root: str | Path = "/sys/fs/cgroup", membership: str | None = None) -> int:
    """Bytes that processes here can have at most: the machine's, or what their control groups (version 2) are given.

    ``membership`` is the text of ``/proc/self/cgroup`` (cgroups(7)).
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="utf-8") if membership is None else membership
    except OSError:
        text = ""
    path = next((line[3:].lstrip("/") for line in text.splitlines() if line.startswith("0::")), "")
    for folder in (Path(root, path), *Path(root, path).parents):
        try:
            limits.append(int((folder / "memory.max").read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or max
            continue
    return min(limits)
