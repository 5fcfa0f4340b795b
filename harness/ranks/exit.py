# SPDX-License-Identifier: Apache-2.0
"""How a rank leaves, so that an error is said once and by a rank that is still alive to say it.

The launcher kills all ranks when the first one fails. When the ranks have agreed on an error, rank 0 reports it and the
others leave with exit code 0. Before ranks can talk to each other, the others wait a moment for rank 0 to report it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from harness.ranks import preemption
from preprocessing.base import cli
from preprocessing.base.errors import UserError

GRACE_S = 5.0


def leave(code: int) -> NoReturn:
    """End this process with ``code`` at once, with everything said.

    The static destructors of C++ libraries race with their own threads in a process that had a process group: one rank
    in ten was ended by SIGABRT after all its work was done, and the launcher took that for a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_rank(main: Callable[[list[str]], int]) -> int:
    """Run a rank's ``main`` and return its exit code; user errors become one line on stderr."""
    rank = int(os.environ.get("RANK", "0"))

    def quiet(argv: list[str]) -> int:
        try:
            return main(argv)
        except UserError as error:
            if rank == 0:
                raise
            if getattr(error, "agreed", False):
                return 0
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline:
                if preemption.received() is not None:  # rank 0 has spoken, and the launcher ends the others
                    return error.exit_code
                time.sleep(0.05)
            raise

    return cli.run(quiet, sys.argv[1:])
