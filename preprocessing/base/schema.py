# SPDX-License-Identifier: Apache-2.0
"""Values of JSON as the class that they claim to be: msgspec checks types, ranges and missing keys.

Annotations are the schema: dataclasses, ``TypedDict`` and ``Record``, ``Literal``, unions, ``Annotated[int,
msgspec.Meta(ge=0)]``. NaN, numbers beyond 64 bits and keys that stand twice are refused before, by ``untrusted``.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import listed, shown

T = TypeVar("T")
MOST = 1 << 53
"""The largest count or size: beyond it a float no longer holds every integer."""
AtLeast0 = Annotated[int, Meta(ge=0)]
AtLeast1 = Annotated[int, Meta(ge=1)]
Above0 = Annotated[float, Meta(gt=0)]
Chance = Annotated[float, Meta(ge=0, lt=1)]
Name = Annotated[str, Meta(min_length=1, description="that is not empty")]
Line = Annotated[str, Meta(pattern=r"^[^\r\n]+\Z", description="on one line")]
Processes = Annotated[int, Meta(ge=1, le=4096)]
"""Processes, or threads, of one machine."""
Seconds = Annotated[int, Meta(ge=1, le=366 * 86_400)]
Wait = Annotated[float, Meta(gt=0, le=366 * 86_400)]
"""Seconds, at most a year: the clocks of some libraries end at more."""
Count = Annotated[int, Meta(ge=0, le=MOST)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of what a JSON file holds: immutable, and without keys that are not its fields."""


def typed(kind: type[T] | Any, content: Any, where: str, mend: str) -> T:
    """Build ``kind`` from JSON's values. A dataclass and a ``Record`` refuse keys that they do not have.

    Raises ``DataError``: ``where``, what is expected and at which key (``$.a.b``), ``mend``.
    """
    try:
        _check_keys(kind, content, "$")
        built: T = msgspec.convert(content, kind)
    except (msgspec.ValidationError, ConfigError) as error:
        raise DataError(f"{where}: {error}; {mend}") from None
    return built


def fits(kind: Any, content: Any) -> bool:
    """Whether JSON's values are those of ``kind``. Further keys of a ``TypedDict`` do no harm."""
    try:
        msgspec.convert(content, kind)
    except (msgspec.ValidationError, ConfigError):
        return False
    return True


def _check_keys(kind: Any, content: Any, at: str) -> None:
    """Refuse keys that a dataclass, or one of its fields that is a dataclass, does not have: msgspec skips them."""
    if not is_dataclass(kind) or not isinstance(content, dict):
        return
    names = [field.name for field in fields(kind) if field.init]
    hints = get_type_hints(kind)
    for name, value in content.items():
        if name not in names:
            raise msgspec.ValidationError(f"no key {shown(name)} is known at {at}; there are {listed(names)}")
        _check_keys(hints[name], value, f"{at}.{name}")
