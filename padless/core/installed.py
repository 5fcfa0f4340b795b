# SPDX-License-Identifier: Apache-2.0
"""The installation: padless's version and commands, installed packages, loading by name."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from padless.core.errors import ConfigError


def is_importable(name: str) -> bool:
    """Import a package; False if it is missing or broken."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True


def require_package(name: str, feature: str, extra: str = "") -> None:
    """Raise ``ConfigError`` if a package cannot be imported; ``feature`` needs it, ``extra`` of padless installs it."""
    if not is_importable(name):
        brings = f"padless[{extra}]" if extra else name.replace("_", "-")
        raise ConfigError(f"{feature}: {name} cannot be imported here; pip install '{brings}' brings it")


def load_object(name: str) -> Any:
    """The function or class that ``module:name`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def shipped_folder(name: str) -> Path:
    """The folder of files that belong to this code, such as ``launch/slurm``: in a wheel ``padless/slurm``."""
    packages = Path(__file__).parents[2]
    in_wheel = packages / "padless" / Path(name).name
    return in_wheel if in_wheel.is_dir() else packages / name


VERSION = "0.1.0"
