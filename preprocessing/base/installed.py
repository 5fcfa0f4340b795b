# SPDX-License-Identifier: Apache-2.0
"""Which packages are there: an image that only predicts has few of them."""

from __future__ import annotations

import importlib

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
