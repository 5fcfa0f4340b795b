# SPDX-License-Identifier: Apache-2.0
"""Options of a configuration class, one for each field: nested fields have dotted keys, docstrings are the help texts;
and the YAML files that hold their values.

A field's annotation is its schema, which msgspec checks: ``Annotated[int, Meta(ge=1)]``, unions with words
(``Literal["auto"]``) or None. Files are YAML of plain values, of bounded size and depth, each key once. Recipes are
found by name: they are the files of ``configs/``, which a wheel installs as ``padless_configs``. A name may begin with
its kind, as in ``pretrain/imdb``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.schema import Above0, AtLeast0
from preprocessing.base.untrusted import MOST_DEPTH, one_line, read_bytes, shown, unique

NULL = "null"
"""None in YAML and on a command line."""
LARGEST = (1 << 63) - 1
WORDS = {
    int: "a whole number",
    float: "a number; 0.5",
    str: "a text",
    bool: "true or false",
    list: "a list; a,b",
    list[AtLeast0]: "a list; 0,1,2",
    tuple: "two values; 0.1,0.9",
    dict: "a mapping; a:1,b:2",
    dict[str, Above0]: "a mapping to numbers above 0; a:1,b:2",
}
"""Type -> its name in messages, and an example."""


@dataclass(frozen=True)
class Option:
    """A key with its type and default (``MISSING``: required)."""

    key: str
    kind: Any
    default: Any
    text: str

    @property
    def is_switch(self) -> bool:
        """Whether ``--key`` alone means true."""
        return self.kind is bool

    def value(self, given: Any) -> Any:
        """Convert text from a command line or YAML to the option's type. Raises ``ConfigError``."""
        if given == NULL and NoneType in alternatives(self.kind):
            return None
        if isinstance(given, str) and given.startswith("~/"):  # no shell replaces it in --output=~/x
            given = os.path.expanduser(given)
        try:
            found = msgspec.convert(shaped(given, self.kind), self.kind, strict=False)
        except ValueError:
            raise ConfigError(f"{self.key}: expected {in_words(self.kind)}, got {shown(given)}") from None
        check_value(self.key, found)
        return found


def takes_list(option: Option) -> bool:
    """Whether an option takes several values."""
    return any(get_origin(part) is list for part in alternatives(option.kind))


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
    """Keys of nested configurations, and their classes."""
    hints = get_type_hints(config_class)
    return {one.name: hints[one.name] for one in fields(config_class) if is_dataclass(hints[one.name])}


def docs_of(config_class: type) -> dict[str, str]:
    """The docstring below each field of a class and of its base classes."""
    found: dict[str, str] = {}
    for one in filter(is_dataclass, reversed(config_class.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        for node, below in itertools.pairwise(getattr(tree, "body", ())):
            match node, below:
                case ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text))):
                    found[ast.unparse(node.target)] = inspect.cleandoc(text)
    return found


def build(config_class: type, values: Mapping[str, Any]) -> Any:
    """An instance from the values of some of its keys. Raises ``ConfigError`` as its ``__post_init__`` does."""
    options, groups = options_of(config_class), groups_of(config_class)
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for key, given in values.items():
        group, _, name = key.rpartition(".")
        parts.get(group, own)[name] = options[key].value(given)
    return config_class(**own, **{name: groups[name](**part) for name, part in parts.items()})


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself; without ranges."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(itertools.chain(*map(alternatives, get_args(kind))))
    return (kind,)


def choices_of(kind: Any) -> list[str]:
    """The words that a value of this type may be."""
    return [str(word) for one in alternatives(kind) if get_origin(one) is Literal for word in get_args(one)]


def shaped(given: Any, kind: Any) -> Any:
    """A value in the shape of its type: texts as YAML, ``a,b`` in place of a list, ``a:1,b:2`` of a mapping, and a
    mapping's ``a: 1`` of ``a: [1]``. Raises ``ValueError``.
    """
    parts = {get_origin(part) or part: part for part in alternatives(kind)}
    if isinstance(given, str) and given not in choices_of(kind):
        if given[:1] in ("[", "{") and parts.keys() & {list, tuple, dict}:
            given = parse_yaml(given)
        elif dict in parts and str not in parts and ":" in given:
            given = parse_yaml(f"{{{given}}}")
        elif parts.keys() & {list, tuple} and str not in parts:
            given = [word for word in map(str.strip, given.split(",")) if word]
    if isinstance(given, dict) and dict in parts:
        several = get_args(parts[dict])[1] == list[Any]
        pairs = (one[0].split(":", 1) if one[1] == NULL and ":" in one[0] else one for one in given.items())
        return {name: [its] if several and isinstance(its, str) else its for name, its in pairs}
    return given


def shares_of(data: str) -> dict[str, float]:
    """Directory -> share, of a mixture such as ``data/a:7,data/b:3``, adding up to 1; of a dataset ``{data: 1.0}``."""
    pairs = re.findall(r"(.+?):(\d+(?:\.\d+)?(?:e[+-]\d+)?)(?:,|\Z)", data)
    found = {path: float(share) for path, share in pairs}
    if not 1 < len(found) > data.count(",") or not all(found.values()):
        return {data: 1.0}
    return {path: share / sum(found.values()) for path, share in found.items()}


def in_words(kind: Any) -> str:
    """The values of a type, as in ``a number above 0 or auto, as in 0.5``."""
    words, example = list[str](), ""
    for part in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        bare, *ranges = get_args(part) if get_origin(part) is Annotated else (part,)
        if get_origin(bare) is Literal or bare is NoneType:
            words += map(str, get_args(bare) or [NULL])
        else:
            name, _, example = (WORDS.get(bare) or WORDS.get(get_origin(bare), "a value")).partition("; ")
            words.append(" ".join([name, *map(limits, ranges)]))
    every = " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    return f"{every}, as in {example}" if example else every


def limits(meta: Meta) -> str:
    """A range, as in ``of at least 1 and of at most 9``."""
    found = {"above": meta.gt, "of at least": meta.ge, "below": meta.lt, "of at most": meta.le}
    spelt = " and ".join(f"{words} {limit:,}" for words, limit in found.items() if limit is not None)
    return spelt or meta.description or ""


def check_value(key: str, value: Any) -> None:
    """Raise ``ConfigError`` for NaN, for a number that is too large, and for text that is not UTF-8 or holds zeros."""
    if isinstance(value, dict | list | tuple):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            check_value(key, part)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ConfigError(f"{key}: {value} is out of range: expected a number of at most 19 digits")
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):  # surrogates stand for other bytes
        raise ConfigError(f"{key}: {shown(value)} is not UTF-8 without zeros; give a file another name or a link")


ENDING = ".yaml"
BESIDE = Path(__file__).parents[2]
INSTALLED = BESIDE / "padless_configs"
SHIPPED = INSTALLED if INSTALLED.is_dir() else BESIDE / "configs"
"""The folder of recipes that belongs to this code."""
INSTALLED_DOCS = BESIDE / "padless_docs"
DOCS = INSTALLED_DOCS if INSTALLED_DOCS.is_dir() else BESIDE / "docs"
"""The folder of the documentation that belongs to this code."""
MOST_BYTES = 1 << 20
"""Three times what a map of 10,000 labels takes."""
MENDS = {
    "'\\t' that cannot start": "begins with a tab; indent with blanks",
    "mapping values are": "a second colon; a nested key has its own line, and a text with a colon stands in quotes",
}
"""Part of what PyYAML says -> what is wrong, and what to do."""


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file; every value is text, as written. Raises ``ConfigError``."""
    try:
        content = parse_yaml(read_bytes(path, MOST_BYTES).decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0)}: name a configuration file that exists") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {shown(content)}, expected keys and values")
    return content


def parse_yaml(content: str, loader: Any = None) -> Any:
    """Parse YAML into lists, mappings and texts. Values stay text, so ``yes`` and ``012`` are unchanged.

    An empty value is ``null``. ``loader`` is PyYAML's, if not the one in Python. Raises ``ValueError`` for invalid
    YAML, aliases, tags, duplicate keys and more than ``MOST_DEPTH`` levels.
    """
    import yaml

    inside: list[list[Any]] = [[]]
    """The contents of the open lists and mappings, the outermost first."""
    try:
        for event in yaml.parse(content, loader or yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise ValueError("an alias (*name) or a tag (!name); write the value itself")
            if isinstance(event, yaml.ScalarEvent):
                inside[-1].append(event.value if event.value or event.style else NULL)
            elif isinstance(event, yaml.CollectionStartEvent):
                inside.append([])
            elif isinstance(event, yaml.CollectionEndEvent):
                closed = inside.pop()
                is_list = isinstance(event, yaml.SequenceEndEvent)
                inside[-1].append(closed if is_list else unique([*zip(closed[::2], closed[1::2], strict=True)]))
            if len(inside) > MOST_DEPTH + 1:
                raise ValueError(f"values more than {MOST_DEPTH} deep")
    except (yaml.YAMLError, TypeError) as error:  # a list or a mapping as a key is no text
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or one_line(error)
        said = next((mend for sign, mend in MENDS.items() if sign in problem), problem)
        raise ValueError(f"line {mark.line + 1}: {said}" if mark else said) from None
    if len(inside[0]) > 1:
        raise ValueError("several documents; one is read")
    return inside[0][0] if inside[0] else NULL


def names(kind: str) -> list[str]:
    """The names of one kind, sorted."""
    return sorted(path.stem for path in (SHIPPED / kind).glob(f"*{ENDING}"))


def file_of(kind: str, name: str) -> Path:
    """The file of a recipe, which need not exist."""
    return SHIPPED / kind / f"{name}{ENDING}"


def find(value: str, kind: str, option: str = "--config") -> str:
    """The file that ``option`` names: ``value`` itself, ``value.yaml`` here, or the recipe ``[KIND/]value``.

    A path that does not exist is returned as it is; opening it gives the error. Raises ``ConfigError`` for an unknown
    recipe, listing those there are.
    """
    bare = value.removesuffix(ENDING)
    for path in (value, bare + ENDING, file_of(kind, bare), file_of("", bare)):
        if os.path.isfile(path):
            return str(path)
    if kind and bare == value == os.path.basename(value):
        raise ConfigError(
            f"{option} {value}: no such file, nor a recipe of padless; there are {', '.join(names(kind))}"
        )
    return value
