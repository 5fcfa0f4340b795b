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
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from padless.core.errors import ConfigError, DataError
from padless.core.installed import shipped_folder
from padless.core.schema import MAX_COUNT
from padless.core.untrusted import MOST_DEPTH, one_line, quote_value, read_bytes, unique

Texts = Annotated[list[str], Meta(extra={"split": False})]
"""The type of a key whose value on a command line is one text, whatever stands in it."""
NULL = "null"
"""None in YAML and on a command line."""
FIELD_DOC = re.compile(r'^    (\w+): [^\n]+\n    """(.+?)"""$', re.MULTILINE | re.DOTALL)
TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    tuple: "two values",
    dict: "a mapping",
    NoneType: NULL,
}
EXAMPLES = {list: "a,b", tuple: "0.1,0.9", dict: "{a: 1, b: 2}"}


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

    def parse(self, text: Any) -> Any:
        """Convert a value from a command line or from YAML to the option's type. Raises ``ConfigError``."""
        if text == NULL and NoneType in self.kinds:
            return None
        if self.kind == Texts and isinstance(text, str):
            text = [text]
        texts = [part for part in (text if isinstance(text, list) else [text]) if isinstance(part, str)]
        if re.search("[\0\ud800-\udfff]", "".join(texts)):  # surrogates stand for other bytes
            raise ConfigError(
                f"{self.key}: {quote_value(text)} is not UTF-8 without zeros; give a file another name or a link"
            )
        if isinstance(text, str) and text.startswith("~/"):  # no shell replaces it in --output=~/x
            text = os.path.expanduser(text)
        try:
            return msgspec.convert(self.parse_structure(text), self.kind, strict=False)
        except ValueError:
            examples = [f", as in {example}" for kind, example in EXAMPLES.items() if kind in self.kinds]
            if str in self.kinds:  # in which a comma separates nothing
                examples = [example.replace("a,b", "[a, b]") for example in examples]
            expected = describe_kind(self.kind) + "".join(examples[:1])
            raise ConfigError(f"{self.key}: expected {expected}, got {quote_value(text)}") from None

    def parse_structure(self, text: Any) -> Any:
        """Lists and mappings in a text as YAML, ``.5`` as a number, ``a,b`` as a list, a mapping's ``a: 1`` as
        ``a: [1]`` where lists are expected. Raises ``ValueError``.
        """
        if isinstance(text, str) and float in self.kinds and re.fullmatch(r"[+-]?(\.\d+|\d+\.)", text):
            return float(text)
        if isinstance(text, str) and self.kinds & {list, tuple, dict}:
            if text[:1] in ("[", "{"):
                text = parse_yaml(text)
            elif self.kinds & {list, tuple}:
                text = self.split_list(text) if str not in self.kinds else text
        if isinstance(text, dict) and any(map(has_lists, alternatives(self.kind))):
            return {name: [value] if isinstance(value, str) else value for name, value in text.items()}
        return text

    def split_list(self, text: str) -> list[str]:
        """The parts of one text of a list: ``[a, b]``, or ``a,b`` where a single text is none. A text of ``Texts`` is
        one. Raises ``ConfigError``.
        """
        if self.kind == Texts:
            return [text]
        if text[:1] == "[":
            try:
                return list(parse_yaml(text))
            except ValueError as error:
                raise ConfigError(f"{self.key}: {quote_value(text)}: {error}") from None
        return [text] if str in self.kinds else [part.strip() for part in text.split(",") if part.strip()]


@cache
def options_of(config_class: type, prefix: str = "") -> dict[str, Option]:
    """Every option of a class by its key, in the order of the fields."""
    hints, texts = get_type_hints(config_class, include_extras=True), docs_of(config_class)
    option_by_key: dict[str, Option] = {}
    for field_entry in fields(config_class):
        key, kind = prefix + field_entry.name, hints[field_entry.name]
        if is_dataclass(kind):
            option_by_key |= options_of(kind, f"{key}.")  # type: ignore[arg-type]
        else:
            default = field_entry.default if field_entry.default_factory is MISSING else field_entry.default_factory()
            option_by_key[key] = Option(key, kind, default, texts.get(field_entry.name, ""))
    return option_by_key


@cache
def groups_of(config_class: type) -> dict[str, type]:
    """Keys of nested configurations, and their classes."""
    hints = get_type_hints(config_class)
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}


def docs_of(config_class: type) -> dict[str, str]:
    """The docstring below each field of a class and of its base classes."""
    doc_by_field: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(config_class.__mro__)):
        doc_by_field |= dict(FIELD_DOC.findall(inspect.getsource(base)))
    return doc_by_field


def build_config(config_class: type, values: Mapping[str, Any]) -> Any:
    """An instance from the values of some of its keys. Raises ``ConfigError`` as its ``__post_init__`` does."""
    options, groups = options_of(config_class), groups_of(config_class)
    values_by_group: dict[str, dict[str, Any]] = {name: {} for name in ("", *groups)}
    for key, text in values.items():
        group, _, name = key.rpartition(".")
        values_by_group[group][name] = options[key].parse(text)
    parts = {name: group_class(**values_by_group[name]) for name, group_class in groups.items()}
    return config_class(**values_by_group[""], **parts)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself; without ranges."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(itertools.chain(*map(alternatives, get_args(kind))))
    return (kind,)


def has_lists(kind: Any) -> bool:
    """Whether a type is that of a mapping to lists."""
    return get_origin(kind) is dict and get_origin(get_args(kind)[1]) is list


def describe_kind(kind: Any) -> str:
    """The values of a type, as in ``a number above 0 or auto``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(map(describe_kind, arguments))
    if origin is list and get_origin(arguments[0]) is Literal:
        return f"a list of {', '.join(get_args(arguments[0]))}"
    if origin is dict and get_origin(arguments[1]) is Annotated:
        return f"a mapping, each value {describe_kind(arguments[1])}"
    if origin is Literal:
        words = ", ".join(map(str, arguments))
        return f"one of {words}" if len(arguments) > 1 else words
    if origin is Annotated:
        return " ".join([describe_kind(arguments[0]), *map(describe_range, arguments[1:])])
    return TYPE_NAMES.get(origin or kind, "a value")


def describe_range(meta: Meta) -> str:
    """A range, as in ``of at least 1 and below 9``; a description, if there is one."""
    limit_by_words = {"above": meta.gt, "of at least": meta.ge, "below": meta.lt, "of at most": meta.le}
    limits = [
        f"{words} {limit:,}" for words, limit in limit_by_words.items() if limit is not None and limit < MAX_COUNT
    ]
    return meta.description or " and ".join(limits)


ENDING = ".yaml"
SHIPPED = shipped_folder("configs")
"""The folder of recipes that belongs to this code."""
DOCS = shipped_folder("docs")
"""The folder of the documentation that belongs to this code."""
MAX_CONFIG_BYTES = 1 << 20
"""Three times what a map of 10,000 labels takes."""


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file; every value is text, as written. Raises ``ConfigError``."""
    try:
        content = parse_yaml(read_bytes(path, MAX_CONFIG_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0)}: name a configuration file that exists") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(content, dict):
        what = "nothing" if content == NULL else quote_value(content)
        raise ConfigError(f"{path}: holds {what}, expected keys and values, as in epochs: 3")
    return content


def parse_yaml(content: str, loader: Any = None) -> Any:
    """Parse YAML into lists, mappings and texts. Values stay text, so ``yes`` and ``012`` are unchanged.

    An empty value is ``null``. ``loader`` is PyYAML's, if not the one in Python. Raises ``ValueError`` for invalid
    YAML, aliases, tags, duplicate keys and more than ``MOST_DEPTH`` levels.
    """
    import yaml

    open_nodes: list[list[Any]] = [[]]
    """The contents of the open lists and mappings, the outermost first."""
    try:
        for event in yaml.parse(content, loader or yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or len(open_nodes) > MOST_DEPTH:
                raise ValueError(f"an alias, a tag (!name), or more than {MOST_DEPTH} levels; write plain values")
            if isinstance(event, yaml.ScalarEvent):
                is_empty = not (event.value or event.style)
                open_nodes[-1].append(NULL if is_empty else join_surrogates(event.value))
            elif isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append([])
            elif isinstance(event, yaml.CollectionEndEvent):
                node = open_nodes.pop()
                is_list = isinstance(event, yaml.SequenceEndEvent)
                open_nodes[-1].append(node if is_list else mapping_of(node))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or one_line(error)
        raise ValueError(f"line {mark.line + 1}: {problem}" if mark else problem) from None
    if len(open_nodes[0]) > 1:
        raise ValueError("several documents; one is read")
    return open_nodes[0][0] if open_nodes[0] else NULL


def mapping_of(node: list[Any]) -> dict[str, Any]:
    """A mapping from its keys and values, in turn. Raises ``ValueError`` for a key that is no text, or occurs twice."""
    pairs = [*zip(node[::2], node[1::2], strict=True)]
    for key, value in pairs:
        if not isinstance(key, str):
            raise ValueError(f"{quote_value(key)} stands where a key belongs; write KEY: VALUE")
        if value == NULL and re.search(r":\S", key):
            raise ValueError(f"{quote_value(key)}: a blank is missing after the colon")
    return unique(pairs)


def join_surrogates(text: str) -> str:
    """``text`` with one character for each pair of JSON's escapes, such as \\ud83d\\ude42. Raises ``ValueError``."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


def names(kind: str) -> list[str]:
    """The names of one kind, sorted."""
    return sorted(path.stem for path in (SHIPPED / kind).glob(f"*{ENDING}"))


def file_of(kind: str, name: str) -> Path:
    """The file of a recipe, which need not exist."""
    return SHIPPED / kind / f"{name}{ENDING}"


def find_config(value: str, kind: str, option: str = "--config") -> str:
    """The file that ``option`` names: ``value`` itself, ``value.yaml`` here, or the recipe ``[KIND/]value``.

    A path that does not exist is returned as it is; opening it gives the error. Raises ``ConfigError`` for an unknown
    recipe, listing those there are.
    """
    stem = value.removesuffix(ENDING)
    for path in (value, stem + ENDING, file_of(kind, stem), file_of("", stem)):
        if os.path.isfile(path):
            return str(path)
    if kind and stem == value == os.path.basename(value):
        raise ConfigError(
            f"{option} {value}: no such file, nor a recipe of padless; there are {', '.join(names(kind))}"
        )
    return value
