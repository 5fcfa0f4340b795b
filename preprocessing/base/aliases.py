# SPDX-License-Identifier: Apache-2.0
"""Other names of an option: a field with ``metadata={"also": ("column",)}`` is understood as ``--column`` too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import get_type_hints


def names_of(config_class: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every other name of a configuration class with the dotted key that it means."""
    hints = get_type_hints(config_class)
    for entry in fields(config_class):
        yield from ((other, prefix + entry.name) for other in entry.metadata.get("also", ()))
        if is_dataclass(hints[entry.name]):
            yield from names_of(hints[entry.name], f"{prefix}{entry.name}.")


def renamed(argv: Sequence[str], config_class: type) -> list[str]:
    """A command line with each other name replaced by the key that it means."""
    keys = dict(names_of(config_class))
    words = []
    for word in argv:
        name, equals, value = word.removeprefix("--").partition("=")
        words.append(f"--{keys[name]}{equals}{value}" if word.startswith("--") and name in keys else word)
    return words
