# SPDX-License-Identifier: Apache-2.0
"""How padless is installed here: its version, packages that are there, names of commands, modules by name."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError


def is_importable(name: str) -> bool:
    """Whether a package can be imported; a broken one counts as none. It is imported if it can be."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


def needed(name: str, what: str, extra: str = "") -> None:
    """Raise ``ConfigError`` if a package cannot be imported; ``what`` needs it, and ``extra`` of padless brings it."""
    if not is_importable(name):
        brings = f"padless[{extra}]" if extra else name.replace("_", "-")
        raise ConfigError(f"{what}: {name} cannot be imported here; pip install '{brings}' brings it")


def load(name: str) -> Any:
    """The function or class that ``module:name`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


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


VERSION = "0.1.0"
