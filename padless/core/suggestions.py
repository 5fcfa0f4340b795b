# SPDX-License-Identifier: Apache-2.0
"""The end of a sentence about an unknown name: the nearest name that exists."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

LEAST_LIKENESS = 0.75
"""Of ``difflib``: a word of four letters may have one other letter, one of eight two."""


def suggestion(name: str, keys: Collection[str], dashes: str, otherwise: str = "--help all lists them") -> str:
    """``did you mean --optim.lr?``, with the nearest of ``keys``, whole or without its group; else ``otherwise``."""
    name = last_part(name).replace("-", "_").lower()
    key_by_name = {last_part(key): key for key in reversed([*keys])}
    close_names = get_close_matches(name, key_by_name, 1, LEAST_LIKENESS)
    return f"did you mean {dashes}{key_by_name[close_names[0]]}?" if close_names else otherwise


def path_suggestion(path: str | Path) -> str:
    """``; did you mean data/mine?``, with the nearest name in the folder of a path that does not exist, or nothing."""
    path, file_by_name = Path(path), dict[str, str]()
    for file in [] if path.exists() else path.parent.glob("*"):
        file_by_name |= {file.stem.lower(): file.name, file.name.lower(): file.name}
    name = get_close_matches(path.name.lower(), file_by_name, 1, LEAST_LIKENESS)
    return f"; did you mean {path.with_name(file_by_name[name[0]])}?" if name else ""


def last_part(key: str) -> str:
    """``lr`` of ``optim.lr``."""
    return key.rpartition(".")[2]
