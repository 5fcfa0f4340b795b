# SPDX-License-Identifier: Apache-2.0
"""``padless COMMAND``, also ``python -m padless COMMAND``. This module imports next to nothing: a signal that came
before would end the command without a sentence.
"""

from __future__ import annotations

import signal
import sys


def script() -> int:
    """Run the command. Stop signals wait until it listens (``padless.core.signals``)."""
    if hasattr(signal, "pthread_sigmask"):  # Windows cannot block signals
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    from padless.commands import run_console_script

    return run_console_script()


if __name__ == "__main__":
    sys.exit(script())
