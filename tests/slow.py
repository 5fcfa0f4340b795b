# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.slow``: the long proofs, which ``make test-slow`` runs.

Those of ``tests/slurm`` mostly wait for the cluster, so they run in parallel to all others. Their output comes when
both are done; the exit code is that of the others, or theirs if that is 0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

PYTEST = (sys.executable, "-m", "pytest", "-m", "slow and not night")
CLUSTER = (*PYTEST, "tests/slurm")
LIMITS = "-n 2 --dist loadfile --timeout 2400 --durations 30"
ALL_BUT_CLUSTER = (*PYTEST, *LIMITS.split(), "--ignore", "tests/slurm")


def side_by_side(command: Sequence[str], parallel_command: Sequence[str]) -> int:
    """Run two commands at once, and then show what ``parallel_command`` printed; the first exit code not 0."""
    with tempfile.TemporaryFile() as output:
        parallel_process = subprocess.Popen(parallel_command, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = subprocess.run(command, check=False).returncode
            return code or parallel_process.wait()
        finally:  # Ctrl-C is for both: this one puts its jobs in order, too
            parallel_process.wait()
            output.seek(0)
            sys.stdout.flush()
            shutil.copyfileobj(output, sys.stdout.buffer)
            sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(side_by_side(ALL_BUT_CLUSTER, CLUSTER))
