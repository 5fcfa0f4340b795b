# SPDX-License-Identifier: Apache-2.0
"""How this process was called: by ``python -m``, or by a console script of an installed padless.

Texts that name a command are written for ``python -m``, which works everywhere; whoever typed ``padless`` reads that.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

SCRIPTS = {"harness": "padless", "preprocessing": "padless-preprocess"}
"""Package -> its console script (``project.scripts`` in pyproject.toml)."""
MODULE = re.compile(rf"python -m ({'|'.join(SCRIPTS)})(?![\w.])")


def by_script() -> bool:
    """Whether a console script started this process."""
    return Path(sys.argv[0]).stem in SCRIPTS.values()


def as_typed(text: str) -> str:
    """``text`` with commands spelt as the user spells them."""
    return MODULE.sub(lambda found: SCRIPTS[found[1]], text) if by_script() else text


def keep_folder_out() -> None:
    """Let no process that this one starts import from the working folder, where a project may have a ``harness`` or
    ``preprocessing`` of its own. Python 3.10 has no such switch and goes on as before.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
