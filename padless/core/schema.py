# SPDX-License-Identifier: Apache-2.0
"""JSON values converted to classes: msgspec checks types, ranges and missing keys.

Annotations are the schema: dataclasses, ``TypedDict`` and ``Record``, ``Literal``, unions, ``Annotated[int,
msgspec.Meta(ge=0)]``. ``untrusted`` has already refused NaN, duplicate keys and deep nesting.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from padless.core.errors import ConfigError, DataError

T = TypeVar("T")
MAX_COUNT = 1 << 53
"""The largest count or size: beyond it a float no longer holds every integer."""
AtLeast0 = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
AtLeast1 = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Above0 = Annotated[float, Meta(gt=0, le=MAX_COUNT)]
Chance = Annotated[float, Meta(ge=0, lt=1)]
Name = Annotated[str, Meta(min_length=1, description="that is not empty")]
LocalPath = Annotated[
    str, Meta(pattern=r"^(?![A-Za-z][\w+.-]*://)[^\r\n]+\Z", description="of one line that is a path of this machine")
]
Processes = Annotated[int, Meta(ge=1, le=4096)]
"""Processes, or threads, of one machine."""
Seconds = Annotated[int, Meta(ge=1, le=366 * 86_400)]
Wait = Annotated[float, Meta(gt=0, le=366 * 86_400)]
"""Seconds, at most a year: the clocks of some libraries end at more."""
ShareText = Annotated[str, Meta(pattern=r"^\d{1,5}/[1-9]\d{0,4}\Z", description="of the form i/n, as 3/8")]
"""One share of several, as in 3/8."""
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class for the content of a JSON file: immutable; unknown keys are refused."""


def convert_json(kind: type[T] | Any, content: Any, origin: str, hint: str) -> T:
    """Build ``kind`` from JSON values. Unknown keys of a ``Record`` are refused, others left out.

    Raises ``DataError``: ``origin``, what is expected at which key (``$.a.b``), ``hint``.
    """
    try:
        built: T = msgspec.convert(content, kind)
    except (msgspec.ValidationError, ConfigError) as error:
        raise DataError(f"{origin}: {error}; {hint}") from None
    return built
