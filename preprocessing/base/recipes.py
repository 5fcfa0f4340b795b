# SPDX-License-Identifier: Apache-2.0
"""The recipes that come with padless, found by name: ``--config imdb`` works in any folder.

They are the files of ``configs/``. A checkout has that folder beside the packages; a wheel brings it under the name
``padless_configs``, at the same place. ``train`` holds recipes of a training, ``pretrain`` those of a language model,
``preprocess`` those of a dataset and ``accelerate`` files for the launcher. A kind may stand in front: ``pretrain/imdb``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from preprocessing.base.errors import ConfigError

ENDING = ".yaml"
BESIDE = Path(__file__).parents[2]
SHIPPED = next((path for path in (BESIDE / "padless_configs", BESIDE / "configs") if path.is_dir()), BESIDE / "configs")
"""The folder of recipes that belongs to this code."""
KINDS = {
    "train": "--config NAME of python -m harness launch, plan and doctor",
    "pretrain": "--config pretrain/NAME of python -m harness launch",
    "preprocess": "--config NAME of python -m preprocessing run",
    "accelerate": "--config_file NAME of python -m harness launch and doctor",
}
"""Folder -> where its files are named."""


def names(kind: str) -> list[str]:
    """The names of one kind, sorted."""
    return sorted(path.stem for path in (SHIPPED / kind).glob(f"*{ENDING}"))


def file_of(kind: str, name: str) -> Path:
    """The file of a recipe, whether it exists or not."""
    return SHIPPED / kind / f"{name}{ENDING}"


def find(value: str, kind: str, option: str = "--config") -> str:
    """The file that ``option`` names: ``value`` itself, ``value.yaml`` here, or the recipe of that name; its kind may
    stand in front.

    A path that leads nowhere comes back as it is, for whoever opens it to refuse. Raises ``ConfigError`` for a name
    that is no recipe's, with those there are, and for a path that is only a recipe's name away from one.
    """
    if os.path.isfile(value):
        return value
    bare = value.removesuffix(ENDING)
    known = names(kind)
    other, _, name = bare.rpartition("/")
    if other in KINDS and name in names(other):
        return str(file_of(other, name))
    if os.path.basename(value) == value:
        if os.path.isfile(bare + ENDING):
            return bare + ENDING
        if bare in known:
            return str(file_of(kind, bare))
        if bare == value:
            raise ConfigError(f"{option} {value}: no such file, nor a recipe of padless; there are {', '.join(known)}")
    elif (name := os.path.basename(bare)) in known:
        raise ConfigError(f"{option} {value}: no such file; the recipe that comes with padless is {option} {name}")
    return value


def named(argv: Sequence[str], kind: str, option: str = "--config") -> list[str]:
    """A command line in which every value of ``option`` is a file: see ``find``."""
    words: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        name, equals, value = word.partition("=")
        if before == option:
            words.append(find(word, kind, option))
        elif name == option and equals:
            words.append(f"{option}={find(value, kind, option)}")
        else:
            words.append(word)
    return words
