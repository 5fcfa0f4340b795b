# SPDX-License-Identifier: Apache-2.0
"""Options of a configuration class: one for each field, nested fields with dotted keys, texts of help from docstrings;
and the files that hold their values.

A field's annotation is its schema, which msgspec checks: ``Annotated[int, Meta(ge=1)]``, unions with words
(``Literal["auto"]``) or None. Files are YAML of plain values, of bounded size and depth, each key once; recipes are
found by name. Those that come with padless are the files of ``configs/``: a checkout has that folder beside the
packages, a wheel brings it under the name ``padless_configs``. A kind may stand in front of a name, as in
``pretrain/imdb``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import MOST_DEPTH, read_bytes, readable, shown

NULL = "null"
NULLS = (NULL, "~")
"""How None is written in YAML and on a command line."""
LARGEST = (1 << 63) - 1
RENAME = "give it another name, or a link with one"
"""Advice for a file name that is not UTF-8."""
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: NULL, Any: "a value"}


@dataclass(frozen=True)
class Option:
    """A key with its type and default; ``MISSING`` where it must be given."""

    key: str
    kind: Any
    default: Any
    text: str

    @property
    def is_switch(self) -> bool:
        """Whether ``--key`` alone means true."""
        return self.kind is bool

    @property
    def is_mapping(self) -> bool:
        """Whether it takes keys that are not known beforehand, as in ``--labels.positive 1``."""
        return any(get_origin(part) is dict for part in alternatives(self.kind))

    def value(self, given: Any) -> Any:
        """The value of texts, as a command line or YAML has them. Raises ``ConfigError``."""
        parts = alternatives(self.kind)
        if isinstance(given, str):
            if NoneType in parts and given in NULLS:
                return None
            if self.is_switch:
                given = given.lower()
            elif given[:1] in ("[", "{") and any(get_origin(part) in (list, tuple, dict) for part in parts):
                given = parsed(self.key, given)
        try:
            found = msgspec.convert(given, self.kind, strict=False)
        except (msgspec.ValidationError, ValueError):
            raise ConfigError(f"{self.key}: expected {in_words(self.kind)}, got {readable(given)}") from None
        check_value(self.key, found)
        return found


@cache
def options_of(config_class: type, prefix: str = "") -> dict[str, Option]:
    """Every option of a class by its key, in the order of the fields."""
    hints, texts = get_type_hints(config_class, include_extras=True), docs_of(config_class)
    found: dict[str, Option] = {}
    for entry in fields(config_class):
        key, kind = prefix + entry.name, hints[entry.name]
        if is_dataclass(kind):
            found |= options_of(kind, f"{key}.")  # type: ignore[arg-type]
        else:
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            found[key] = Option(key, kind, default, texts.get(entry.name, ""))
    return found


@cache
def groups_of(config_class: type) -> dict[str, type]:
    """Keys that have others below them, and their classes."""
    hints = get_type_hints(config_class)
    return {one.name: hints[one.name] for one in fields(config_class) if is_dataclass(hints[one.name])}


@cache
def docs_of(config_class: type) -> dict[str, str]:
    """The docstring below each field of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for one in reversed([one for one in config_class.__mro__ if is_dataclass(one)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for node, below in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[ast.unparse(node.target)] = inspect.cleandoc(str(below.value.value))
    return found


def build(config_class: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance from the values of some of its keys. Raises ``ConfigError`` as its ``__post_init__`` does."""
    options, groups = options_of(config_class, prefix), groups_of(config_class)
    given = {}
    for entry in fields(config_class):
        key = prefix + entry.name
        if entry.name in groups:
            given[entry.name] = build(groups[entry.name], values, f"{key}.")
        elif key in values:
            given[entry.name] = options[key].value(values[key])
    return config_class(**given)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself; without ranges."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(itertools.chain(*map(alternatives, get_args(kind))))
    return (kind,)


def choices_of(kind: Any) -> list[str]:
    """The words that a value of this type may be."""
    found = {bool: ["true", "false"], NoneType: [NULL]}
    parts = alternatives(kind)
    return [
        str(word) for one in parts for word in (get_args(one) if get_origin(one) is Literal else found.get(one, ()))
    ]


def in_words(kind: Any) -> str:
    """What values a type takes, as in ``a whole number of at least 1 or null``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{in_words(parts[0])} {' and '.join(limit for meta in parts[1:] for limit in limits(meta))}".strip()
    if origin in (Union, UnionType):
        *before, last = map(in_words, parts)
        return f"{', '.join(before)} or {last}"
    if origin is Literal:
        return " or ".join(map(str, parts)) if len(parts) < 3 else f"one of {', '.join(map(str, parts))}"
    named = {list: "a list, as in [a, b]", tuple: f"{len(parts)} values, as in [a, b]", dict: "a mapping, as in {a: b}"}
    return WORDS.get(kind) or named.get(origin) or "a value"


def limits(meta: Meta) -> list[str]:
    """A range, as in ``of at least 1``."""
    found = {"above": meta.gt, "of at least": meta.ge, "below": meta.lt, "of at most": meta.le}
    spelt = [f"{words} {limit:,}" for words, limit in found.items() if limit is not None]
    return [*spelt, *([] if meta.description is None else [meta.description])]


def parsed(key: str, text: str) -> Any:
    """A list or mapping that is written as YAML. Raises ``ConfigError``."""
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def check_value(key: str, value: Any) -> None:
    """Raise ``ConfigError`` for a number that is none or too large, and for text that cannot be written down."""
    if isinstance(value, dict):
        for name, part in value.items():
            check_value(f"{key}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            check_value(key, part)
    elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise ConfigError(f"{key}: {value} is out of range: expected a whole number of at most 19 digits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: {value} is out of range: expected a finite number")
    elif isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{key}: {shown(value)} holds the character 0, which no name has; leave it out")
    elif isinstance(value, str) and not is_utf8(value):
        raise ConfigError(f"{key}: {shown(value)} is not UTF-8, which configurations and records are; {RENAME}")


def is_utf8(text: str) -> bool:
    """Whether a text can be written down: Python's spelling of other bytes in file names cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    that is no recipe's, with those there are.
    """
    bare = value.removesuffix(ENDING)
    for path in (value, bare + ENDING, file_of(kind, bare), SHIPPED / f"{bare}{ENDING}"):
        if os.path.isfile(path):
            return str(path)
    if bare == value == os.path.basename(value):
        raise ConfigError(
            f"{option} {value}: no such file, nor a recipe of padless; there are {', '.join(names(kind))}"
        )
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
