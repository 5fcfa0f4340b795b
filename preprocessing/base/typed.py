# SPDX-License-Identifier: Apache-2.0
"""Values of JSON as the dataclass that they claim to be: its fields' annotations are the schema.

Understood: ``int`` (a bool is none), ``float`` (finite; an int is one), ``str``, ``bool``, ``None``, ``Any``, unions,
``Literal``, ``list[...]``, ``dict[str, ...]`` (also with ``Literal`` keys), ``tuple[...]``, dataclasses in each other,
``Annotated[int, Between(0, 9)]`` or another condition that has ``holds`` and says what it is, and ``TypedDict``: a
plain dict whose named keys are typed, the others are let be.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import shown

T = TypeVar("T")
MOST = 1 << 53
"""Counts and sizes above it are nobody's: beyond it a float no longer holds every integer."""


@dataclass(frozen=True)
class Between:
    """A number in a range, both ends in; or so many characters, items or keys."""

    least: float
    most: float = MOST

    def holds(self, value: Any) -> bool:
        """Whether the value, or how many there are, lies inside."""
        size = value if isinstance(value, int | float) else len(value)
        return self.least <= size <= self.most

    def __str__(self) -> str:
        """For a sentence."""
        if self.most == MOST:
            return f"at least {self.least:g}"
        return f"from {self.least:g} to {self.most:g}"


@dataclass(frozen=True)
class Having:
    """An object that has these keys, with values of these types, whatever else it has."""

    keys: tuple[tuple[str, Any], ...]

    def holds(self, value: Any) -> bool:
        """Whether it has them."""
        try:
            for name, kind in self.keys:
                _value(kind, value[name], name)
        except (KeyError, MismatchError):
            return False
        return True

    def __str__(self) -> str:
        """For a sentence."""
        return f"an object with {', '.join(name for name, _ in self.keys)}"


def having(**keys: Any) -> Having:
    """``Having`` with keys that are names."""
    return Having(tuple(keys.items()))


@dataclass(frozen=True)
class Spelt:
    """A text that a pattern describes; ``name`` says what it is."""

    pattern: str
    name: str

    def holds(self, value: Any) -> bool:
        """Whether the whole text is spelt so."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        """For a sentence."""
        return self.name


@dataclass(frozen=True)
class Like:
    """A value that stays as it is where it fits another schema: a ``dict[str, Any]`` like a ``TypedDict``."""

    kind: Any


Count = Annotated[int, Between(0)]
Positive = Annotated[int, Between(1)]
Sha256 = Annotated[str, Spelt("[0-9a-f]{64}", "a sha256: 64 of 0-9 and a-f")]


class MismatchError(Exception):
    """A value is not what its field says: where it stands, what it is, what is expected."""

    def __init__(self, at: str, value: object, expected: str) -> None:
        """Keep the sentence's parts."""
        super().__init__(f"{at or 'it'} is {shown(value)}, expected {expected}")


def typed(kind: type[T], content: Any, where: str, mend: str) -> T:
    """Build the dataclass ``kind`` from JSON's values. A key that it does not have is refused.

    One with a default may be absent. Raises ``DataError``: ``where``, which key, what is expected, ``mend``.
    """
    try:
        built: T = _dataclass(kind, content, "")
    except MismatchError as error:
        raise DataError(f"{where}: {error}; {mend}") from None
    return built


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _dataclass(kind: type, content: Any, at: str) -> Any:
    if not isinstance(content, dict):
        raise MismatchError(at, content, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in content:
        if name not in fields:
            raise MismatchError(_under(at, name), content[name], f"no such key; there are {', '.join(fields)}")
    for name, field in fields.items():
        given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in content and not given:
            raise MismatchError(_under(at, name), None, "a value: the key is missing")
    return kind(**{name: _value(_hints(kind)[name], value, _under(at, name)) for name, value in content.items()})


def _typed_dict(kind: Any, content: Any, at: str) -> Any:
    if not isinstance(content, dict):
        raise MismatchError(at, content, "an object")
    for name, hint in _hints(kind).items():
        if name in content:
            _value(hint, content[name], _under(at, name))
        elif name in kind.__required_keys__:
            raise MismatchError(_under(at, name), None, "a value: the key is missing")
    return content


def _under(at: str, name: str) -> str:
    name = name if name.isprintable() and len(name) <= 60 else shown(name)
    return f"{at}.{name}" if at else name


def _value(hint: Any, value: Any, at: str) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        built = _value(parts[0], value, at)
        for wanted in parts[1:]:
            if isinstance(wanted, Like):
                _value(wanted.kind, value, at)
            elif built is not None and not wanted.holds(built):
                raise MismatchError(at, value, str(wanted))
        return built
    if origin in (Union, types.UnionType):
        return _union(parts, value, at)
    if origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
        raise MismatchError(at, value, f"one of {', '.join(map(repr, parts))}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, value, at)
    if is_typeddict(hint):
        return _typed_dict(hint, value, at)
    if origin in (list, dict, tuple):
        return _container(origin, parts, value, at)
    return _plain(hint, value, at)


def _union(parts: tuple[Any, ...], value: Any, at: str) -> Any:
    found = None
    for part in parts:
        try:
            return _value(part, value, at)
        except MismatchError as error:
            found = found or error
    assert found is not None
    raise found


def _container(origin: Any, parts: tuple[Any, ...], value: Any, at: str) -> Any:
    if origin is dict:
        if not isinstance(value, dict):
            raise MismatchError(at, value, "an object")
        if parts[0] is not str:
            for name in value:
                _value(parts[0], name, f"a key of {at}" if at else "a key")
        if _are_plain(parts[1], value.values()):
            return value
        return {name: _value(parts[1], part, _under(at, name)) for name, part in value.items()}
    if not isinstance(value, list):
        raise MismatchError(at, value, "a list")
    if origin is tuple and parts[-1] is not Ellipsis:
        if len(parts) != len(value):
            raise MismatchError(at, value, f"{len(parts)} values")
        return tuple(_value(hint, part, f"{at}[{i}]") for i, (hint, part) in enumerate(zip(parts, value, strict=True)))
    if origin is list and _are_plain(parts[0], value):
        return value
    return origin(_value(parts[0], part, f"{at}[{i}]") for i, part in enumerate(value))


def _are_plain(hint: Any, values: Iterable[Any]) -> bool:
    """Whether all are of one plain type, found fast: a manifest has a million counts."""
    return hint in (int, str) and set(map(type, values)) <= {hint}


PLAIN = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _plain(hint: Any, value: Any, at: str) -> Any:
    if hint in (None, type(None)):
        if value is None:
            return None
        raise MismatchError(at, value, "null")
    if hint not in PLAIN:
        raise TypeError(f"{at}: {hint!r} is no schema")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number and math.isfinite(value):
        return float(value)
    if hint is not float and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise MismatchError(at, value, PLAIN[hint])
