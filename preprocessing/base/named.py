# SPDX-License-Identifier: Apache-2.0
"""Functions and classes by name, as registries and tables of commands hold them: imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import Any


def load(name: str) -> Any:
    """The function or class that ``module:name`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
