# SPDX-License-Identifier: Apache-2.0
"""Configuration files: YAML of plain values, of bounded size and depth, each key once; recipes are found by name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError
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


MOST_BYTES = 1 << 20
"""As much as the names of 10,000 classes and what means each, three times over."""
MOST_VALUES = 100_000
"""Values of a file after each alias stands for what it means."""
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: str | Path) -> tuple[str, Any]:
    """The text of a YAML file, and its value.

    Raises ``OSError`` as ``open``, ``ValueError`` for what is no YAML of plain values, ``DataError`` for what is no
    regular file or is larger than any configuration.
    """
    content = read_bytes(path, MOST_BYTES).decode("utf-8")
    return content, parse_yaml(content)


def parse_yaml(content: str) -> Any:
    """The value of YAML. Raises ``ValueError`` that says what is wrong.

    Refused beside what is no YAML: tags of other languages' objects; a key that stands twice; more than ``MOST_DEPTH``
    levels; aliases that mean themselves, or more values than anybody writes.
    """
    import yaml

    try:
        compose(content)
        return yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except ShapeError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"a value is not what its tag or its form says ({error})") from None


class ShapeError(ValueError):
    """YAML that would take for ever: too deep, too large, or a value within itself; or a key that stands twice."""


def compose(content: str) -> Any:
    """The tree of YAML, each key once; None for nothing. Raises ``YAMLError`` for what is none, and ``ShapeError``."""
    import yaml

    depth = 0
    for event in yaml.parse(content, yaml.SafeLoader):  # one by one: the tree is built by recursion
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ShapeError(f"values more than {MOST_DEPTH} deep")
    root = yaml.compose(content, yaml.SafeLoader)
    if root is not None:
        _weigh(root, {})
    return root


def _weigh(node: Any, known: dict[int, int]) -> int:
    """How many values a node means. Raises ``ShapeError``."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise ShapeError("an alias means what it stands in")
        return known[id(node)]
    known[id(node)] = 0
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise ShapeError(f"the key {shown(twice[0])} stands twice")
        parts = [part for pair in node.value for part in pair]
    total = 1
    for part in parts:
        total += _weigh(part, known)
        if total > MOST_VALUES:
            raise ShapeError(f"more than {MOST_VALUES:,} values")
    known[id(node)] = total
    return total
