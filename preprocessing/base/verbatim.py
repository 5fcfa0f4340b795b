# SPDX-License-Identifier: Apache-2.0
"""Values of some options are texts as they are written: YAML must not read ``yes`` as true or ``012`` as a number.

A field with ``metadata={"verbatim": True}`` is such an option. What the user wrote for it, in a file or on the command
line, gets its scalars quoted before the parser sees it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import yaml
from jsonargparse import ActionConfigFile

from preprocessing.base.config_files import ShapeError, compose, read_yaml
from preprocessing.base.errors import ConfigError

TEXT = "tag:yaml.org,2002:str"


def verbatim_keys(config_class: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration class whose values are texts."""
    hints = get_type_hints(config_class)
    for entry in fields(config_class):
        if entry.metadata.get("verbatim"):
            yield prefix + entry.name
        elif is_dataclass(hints[entry.name]):
            yield from verbatim_keys(hints[entry.name], f"{prefix}{entry.name}.")


def is_file(value: str) -> bool:
    """Whether a value names a file, and is not one itself."""
    return "\0" not in value and os.path.isfile(value)


def quoted_argument(key: str, value: str, keys: set[str]) -> str:
    """A value of the command line, its scalars quoted where ``key``, or what it lies below, is one of ``keys``.

    A key above some of them takes a mapping, or the name of a file with one.
    """
    below = {one.removeprefix(f"{key}.") for one in keys if one.startswith(f"{key}.")}
    try:
        if below:
            return quoted(read_yaml(value)[0] if is_file(value) else value, below) or value
        if key not in keys and key.rpartition(".")[0] not in keys:
            return value
        node = compose(value)
    except yaml.YAMLError:
        return value  # the parser refuses it, naming the key
    except ShapeError as error:
        raise ConfigError(f"{key}: {error}") from None
    if node is None or isinstance(node, yaml.ScalarNode):
        return str(node.value) if node is not None and node.style in ("'", '"') else value
    quote(node)
    return json.dumps(yaml.SafeLoader("").construct_document(node))


def quoted_arguments(argv: list[str], keys: set[str]) -> list[str]:
    """A whole command line: ``--key=value`` and ``--key value``."""
    words: list[str] = []
    key = ""
    for word in argv:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            words.append(f"--{key}={quoted_argument(key, value, keys)}" if equals else word)
        else:
            words.append(quoted_argument(key, word, keys))
            key = ""
    return words


def quoted(content: str, keys: set[str]) -> str | None:
    """YAML with the scalars of ``keys`` quoted; None if it holds none of them."""
    root = compose(content)
    found = [node for key, node in entries(root) if key in keys] if root is not None else []
    for node in found:
        quote(node, whole=bool(node.value))
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True) if found else None


def entries(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Every dotted key of a mapping with its value."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        key = prefix + str(name.value)
        yield key, value
        yield from entries(value, key + ".")


def quote(node: Any, whole: bool = True) -> None:
    """Make every scalar of a tree a text; the tree itself, if it is one, only where ``whole`` says so."""
    if isinstance(node, yaml.ScalarNode):
        if whole:
            node.tag, node.style = TEXT, '"'
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            quote(name)
            quote(value)
    else:
        for value in node.value:
            quote(value)


def config_action(keys: set[str]) -> type[ActionConfigFile]:
    """``--config FILE``, the values of ``keys`` read as they are written."""

    class Verbatim(ActionConfigFile):
        @staticmethod
        def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
            """Read a file in place of the original, as text, if anything in it is to be quoted."""
            content = quoted(read_yaml(value)[0], keys)
            ActionConfigFile.apply_config(parser, cfg, dest, value if content is None else content)

    return Verbatim
