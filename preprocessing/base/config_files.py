# SPDX-License-Identifier: Apache-2.0
"""Configuration files: YAML of plain values, of bounded size and depth, each key once; recipes are found by name.

The recipes that come with padless are the files of ``configs/``: a checkout has that folder beside the packages, a
wheel brings it under the name ``padless_configs``. A kind may stand in front of a name, as in ``pretrain/imdb``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import MOST_DEPTH, read_bytes, shown

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
MOST_BYTES = 1 << 20
"""As much as the names of 10,000 classes and what means each, three times over."""


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file; every value is text as it is written. Raises ``ConfigError``."""
    try:
        content = parse_yaml(read_bytes(path, MOST_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0)}: name a configuration file that exists") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(content, dict):
        what = "nothing" if content in (None, "null", "~") else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: holds {what}, expected keys and values")
    return content


def parse_yaml(content: str) -> Any:
    """The lists, mappings and texts of YAML: whoever reads a value gives it its type, so ``yes`` and ``012`` stay.

    An empty value is ``null``. Raises ``ValueError`` for what is no YAML, for aliases and tags, for a key that stands
    twice and for more than ``MOST_DEPTH`` levels.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(content, yaml.SafeLoader):  # one by one: the tree is built by recursion
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ValueError(f"values more than {MOST_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("an alias (*name); write the value itself")
            if tag := getattr(event, "tag", None):
                raise ValueError(f"a tag ({shown(tag)}); write the value alone")
        root = yaml.compose(content, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split()).replace('in "<unicode string>",', "at")) from None
    return None if root is None else _plain(root)


def _plain(node: Any) -> Any:
    if node.id == "scalar":
        return "null" if node.style is None and not node.value else node.value
    if node.id == "sequence":
        return [_plain(part) for part in node.value]
    found: dict[str, Any] = {}
    for name, part in node.value:
        if name.id != "scalar":
            raise ValueError("a key that is a list or a mapping")
        if name.value in found:
            raise ValueError(f"the key {shown(name.value)} occurs twice")
        found[name.value] = _plain(part)
    return found


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
