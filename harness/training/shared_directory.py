# SPDX-License-Identifier: Apache-2.0
"""Whether all machines see one run directory: rank 0 writes a file there, and every machine looks for it."""

from __future__ import annotations

import os
import platform
import time
import uuid
from pathlib import Path

from harness.ranks.distributed import World, launched_local_rank, launched_machines
from harness.rundir.storage import storage
from preprocessing.base.errors import ConfigError

LOOK_LIMIT_S = 60.0
"""A network file system may remember for so long that a directory was not there; no more than half the time limit."""


def check_shared(run: str | Path, world: World) -> None:
    """Raise ``ConfigError`` on every rank if a machine does not see what rank 0 writes. Every rank calls it."""
    if launched_machines() == 1:
        return
    token = Path(run, f".seen-{uuid.uuid4().hex}") if world.is_main else None
    try:
        with world.together("writing into the run directory"):
            if token is not None:
                with storage(token):
                    token.touch()
        host, name = world.from_main((platform.node(), token and token.name), "a file in the run directory")
        with world.together("looking at the run directory"):
            if launched_local_rank() == 0 and not appears(Path(run, str(name)), min(LOOK_LIMIT_S, world.timeout_s / 2)):
                raise ConfigError(
                    f"run: {run} on {platform.node()} is not the directory of that name on {host}, which holds the "
                    f"checkpoints; name one that all machines share, or mount it there"
                )
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def appears(path: Path, limit_s: float) -> bool:
    """Whether a file is there, now or within the limit."""
    deadline = time.monotonic() + limit_s
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
        if path.parent.is_dir():
            os.listdir(path.parent)  # asks the server again
    return True
