# SPDX-License-Identifier: Apache-2.0
"""Options that are typed in more ways than one.

A field with ``metadata={"also": ("column",)}`` is understood as ``--column`` too, and of one with ``{"dashed": True}``
the value may begin with dashes, as in ``--sbatch "--exclusive"``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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


def joined(argv: Sequence[str], config_class: type, known: Collection[str]) -> list[str]:
    """A command line in which each value that begins with dashes is one word with its option, as in ``--key=--value``.

    What begins with one of the ``known`` keys is no value: the option before it has none.
    """
    dashed = {f"--{entry.name}" for entry in fields(config_class) if entry.metadata.get("dashed")}
    words: list[str] = []
    for word in argv:
        is_value = word.startswith("--") and word[2:].partition("=")[0] not in known
        if is_value and words and words[-1] in dashed:
            words[-1] = f"{words[-1]}={word}"
        else:
            words.append(word)
    return words
