# SPDX-License-Identifier: Apache-2.0
"""The console script ``padless``. This module imports next to nothing: a signal that came before would end the command
without a sentence.
"""

from __future__ import annotations

import signal


def script() -> int:
    """``padless COMMAND``. Stop signals wait until the command listens (``preprocessing.base.signals``)."""
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    from harness import __main__ as commands

    return commands.run_console_script()
