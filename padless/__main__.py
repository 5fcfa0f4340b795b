# SPDX-License-Identifier: Apache-2.0
"""``python -m padless COMMAND``: the console script ``padless``."""

from __future__ import annotations

import sys

from harness.console_script import script

if __name__ == "__main__":
    sys.exit(script())
