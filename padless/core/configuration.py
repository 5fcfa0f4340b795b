# SPDX-License-Identifier: Apache-2.0
"""Options of a configuration class, one for each field: nested fields have dotted keys, docstrings are the help texts;
and the YAML files that hold their values.

A field's annotation is its schema, which msgspec checks: ``Annotated[int, Meta(ge=1)]``, unions with words
(``Literal["auto"]``) or None. Files are YAML of plain values, of bounded size and depth, each key once. Recipes are
found by name: they are the files of ``configs/``, which a wheel installs as ``padless/configs``. A name may begin with
its kind, as in ``pretrain/imdb``.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from padless.core.errors import ConfigError, DataError
from padless.core.installed import shipped_folder
from padless.core.schema import MAX_COUNT
from padless.core.untrusted import MOST_DEPTH, one_line, quote_value, read_bytes

Texts = Annotated[list[str], Meta(extra={"split": False})]
"""The type of a key whose value on a command line is one text, whatever stands in it."""
NULL = "null"
"""None in YAML and on a command line."""
ENDING = ".yaml"
SHIPPED = shipped_folder("configs")
"""The folder of recipes that belongs to this code."""
DOCS = shipped_folder("docs")
"""The folder of the documentation that belongs to this code."""
MAX_CONFIG_BYTES = 1 << 20
"""Three times what a map of 10,000 labels takes."""
FIELD_DOC = re.compile(r'^    (\w+): [^\n]+\n    """(.+?)"""$', re.MULTILINE | re.DOTALL)
TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    NoneType: NULL,
}
LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
LEAST_LIKENESS = 0.75
"""Of ``difflib``: a word of four letters may have one other letter, one of eight two."""


@dataclass(frozen=True)
class Option:
    """A key with its type, default (``MISSING``: required) and text of its help."""

    key: str
    kind: Any
    default: Any
    text: str

    @property
    def kinds(self) -> set[Any]:
        """The types of its values, without parameters and ranges."""
        return {get_origin(kind) or kind for kind in alternatives(self.kind)}

    def parse(self, value: Any) -> Any:
        """Convert a value from a command line or from YAML to the option's type. Raises ``ConfigError``."""
        if value == NULL and NoneType in self.kinds:
            return None
        try:
            structure = self.read_structure(value) if isinstance(value, str) else value
            return msgspec.convert(structure, self.kind, strict=False)
        except ValueError:
            raise ConfigError(f"{self.key}: expected {describe_kind(self.kind)}, got {quote_value(value)}") from None

    def read_structure(self, text: str) -> Any:
        """Lists and mappings in a text as YAML, ``a,b`` as a list where one text is none. A text of ``Texts`` is one.
        Raises ``ValueError``.
        """
        if self.kind == Texts:
            return [text]
        if text[:1] in ("[", "{") and self.kinds & {list, dict}:
            return parse_yaml(text)
        if list in self.kinds and str not in self.kinds:
            return [part.strip() for part in text.split(",") if part.strip()]
        if text.startswith("~/"):  # no shell replaces it in --output=~/x
            return os.path.expanduser(text)
        return text

    def join(self, texts: list[str]) -> Any:
        """The value of this key from its texts on a command line: those of a list add up. Raises ``ConfigError``."""
        if len(texts) == 1:
            return texts[0]
        if list not in self.kinds:
            raise ConfigError(f"--{self.key}: given {len(texts)} times, and it takes one value; keep one of them")
        return texts if self.kind == Texts or str in self.kinds else ",".join(texts)


DEFAULT_RECIPE = Option("default_recipe", bool, True, "")
"""A key of YAML files alone: ``false`` in a recipe that says all it needs, so that none stands below it."""


@cache
def options_of(config_class: Any, prefix: str = "") -> dict[str, Option]:
    """Every option of a class by its key, in the order of the fields."""
    hints, texts = get_type_hints(config_class, include_extras=True), docs_of(config_class)
    groups, option_by_key = groups_of(config_class), dict[str, Option]()
    for field in fields(config_class):
        name, key = field.name, prefix + field.name
        if name in groups:
            option_by_key |= options_of(groups[name], f"{key}.")
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            option_by_key[key] = Option(key, hints[name], default, texts.get(name, ""))
    return option_by_key


@cache
def groups_of(config_class: Any) -> dict[str, type]:
    """Keys of nested configurations, and their classes."""
    hints = get_type_hints(config_class)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}


def docs_of(config_class: type) -> dict[str, str]:
    """The docstring below each field of a class and of its base classes."""
    sources = map(inspect.getsource, filter(is_dataclass, reversed(config_class.__mro__)))
    return dict(FIELD_DOC.findall("\n".join(sources)))


def build_config(config_class: Any, values: Mapping[str, Any], prefix: str = "", example: str = "") -> Any:
    """An instance from the values of its keys, all that have no default; ``example`` is a command with them. Raises
    ``ConfigError`` as its ``__post_init__`` does.
    """
    arguments: dict[str, Any] = {}
    for name, group_class in groups_of(config_class).items():
        arguments[name] = build_config(group_class, values, f"{prefix}{name}.", example)
    for key, option in options_of(config_class, prefix).items():
        name = key.removeprefix(prefix)
        if key in values and "." not in name:
            arguments[name] = option.parse(values[key])
        elif option.default is MISSING:
            advice = f"give it, as in {example}" if example else f"--help {key} says what it takes"
            raise ConfigError(f"--{key} is missing; {advice}")
    return config_class(**arguments)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself; without ranges."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(itertools.chain(*map(alternatives, get_args(kind))))
    return (kind,)


def describe_kind(kind: Any) -> str:
    """The values of a type, as in ``a number above 0 or auto``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(describe_kind, arguments))
    if origin is dict:
        return f"a mapping to {describe_kind(arguments[1])}"
    if origin is Literal:
        words = ", ".join(map(str, arguments))
        return f"one of {words}" if len(arguments) > 1 else words
    if origin is Annotated:
        return " ".join(filter(None, [describe_kind(arguments[0]), *map(describe_range, arguments[1:])]))
    return TYPE_NAMES.get(origin or kind, "a value")


def describe_range(meta: Meta) -> str:
    """A range, as in ``of at least 1 and below 9``; a description, if there is one."""
    limits = (("above", meta.gt), ("of at least", meta.ge), ("below", meta.lt), ("of at most", meta.le))
    words = [f"{word} {limit:,}" for word, limit in limits if limit is not None and limit < MAX_COUNT]
    return meta.description or " and ".join(words)


def suggest_key(name: str, keys: Collection[str], dashes: str = "--") -> str:
    """The end of the sentence about an unknown key: ``did you mean --optim.lr?``; keys match without their group."""
    key_by_name = {key.rpartition(".")[2]: key for key in reversed([*keys])}
    name = name.rpartition(".")[2].lstrip("-").replace("-", "_").lower()
    close_names = get_close_matches(name, key_by_name, 1, LEAST_LIKENESS)
    return f"did you mean {dashes}{key_by_name[close_names[0]]}?" if close_names else "--help lists what there is"


def read_files(config_class: type, files: Sequence[str]) -> dict[str, Any]:
    """The values of configuration files, of which a later one wins; the class's ``RECIPES`` is the kind of recipes that
    are found by name.

    They stand on the class's ``DEFAULT``, unless one of them says ``default_recipe: false``. Raises ``ConfigError``.
    """
    values = dict[str, Any]()
    default: Any = getattr(config_class, "DEFAULT", None)
    stands_on_default = default is not None
    for file in files:
        path = find_config(file, getattr(config_class, "RECIPES", ""))
        content = read_config(path)
        if default is not None:
            stands_on_default &= DEFAULT_RECIPE.parse(content.pop(DEFAULT_RECIPE.key, "true"))
        values |= flatten_groups(config_class, content, f"{path}: ")
    return flatten_groups(config_class, read_config(default) if stands_on_default else {}, "") | values


def flatten_groups(config_class: type, content: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The values of keys, which may stand in groups, by their dotted names. Raises ``ConfigError`` with the ``origin``
    for a key that the class does not have, and for one that is there twice.
    """
    options, groups, values = options_of(config_class), groups_of(config_class), dict[str, Any]()
    for name, value in content.items():
        is_group = name in groups and isinstance(value, Mapping)
        for key, entry in value.items() if is_group else [("", value)]:
            dotted_key = f"{name}.{key}".strip(".")
            if dotted_key in values:
                raise ConfigError(f"{origin}{dotted_key}: stands alone and in its group; remove one")
            if dotted_key in options:
                values[dotted_key] = entry
            elif name not in groups or value != NULL:
                raise ConfigError(f"{origin}{dotted_key}: no such key; {suggest_key(dotted_key, options)}")
    return values


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file; every value is text, as written. Raises ``ConfigError``."""
    try:
        content = parse_yaml(read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8"))
    except (OSError, DataError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {quote_value(content)}, expected keys and values, as in epochs: 3")
    return content


def parse_yaml(content: str) -> Any:
    """Parse a document of YAML into lists, mappings and texts, as written: ``yes`` and ``012`` are unchanged, an empty
    value is ``null``. Raises ``ValueError``.
    """
    try:
        events = yaml.parse(content, LOADER)
        nodes = [event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent)]
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or one_line(error)
        raise ValueError(f"line {mark.line + 1}: {problem}" if mark else problem) from None
    nodes_left = iter(nodes)
    value = read_node(next(nodes_left), nodes_left) if nodes else NULL
    if any(nodes_left):
        raise ValueError("two documents; remove the lines ---")
    return value


def read_node(event: Any, events: Iterator[Any], depth: int = 0) -> Any:
    """The value that begins with an ``event`` of YAML. Raises ``ValueError`` for aliases, which may expand beyond
    memory, tags, more than ``MOST_DEPTH`` levels, a key that is no text, and one that occurs twice.
    """
    if isinstance(event, yaml.AliasEvent) or event.tag or depth > MOST_DEPTH:
        raise ValueError(f"an alias, a tag (!name), or more than {MOST_DEPTH} levels; write plain values")
    if isinstance(event, yaml.ScalarEvent):
        return event.value if event.style or event.value else NULL
    values = list[Any]()
    while not isinstance(following := next(events), yaml.CollectionEndEvent):
        values.append(read_node(following, events, depth + 1))
    if isinstance(event, yaml.SequenceStartEvent):
        return values
    mapping = dict[str, Any]()
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str):
            raise ValueError(f"line {event.start_mark.line + 1}: a list or a mapping where a key belongs")
        if value == NULL and re.search(r":\S", key):
            raise ValueError(f"{quote_value(key)}: a blank is missing after the colon")
        if key in mapping:
            raise ValueError(f"the key {quote_value(key)} occurs twice")
        mapping[key] = value
    return mapping


def recipe_names(kind: str) -> list[str]:
    """The names of the recipes of one kind, sorted; none without a kind."""
    return sorted(path.stem for path in (SHIPPED / kind).glob(f"*{ENDING}"))


def find_config(value: str, kind: str, option: str = "--config") -> str:
    """The file that ``option`` names: ``value`` itself, or the recipe ``[KIND/]value``.

    A path that does not exist is returned as it is; opening it gives the error. Raises ``ConfigError`` for an unknown
    recipe, listing those there are.
    """
    recipe = value + ENDING
    for path in (value, str(SHIPPED / kind / recipe), str(SHIPPED / recipe)):
        if os.path.isfile(path):
            return path
    if kind and re.fullmatch(r"[\w-]+", value):
        names = ", ".join(recipe_names(kind))
        raise ConfigError(f"{option} {value}: no such file, nor a recipe of padless; there are {names}")
    return value
