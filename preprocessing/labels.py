# SPDX-License-Identifier: Apache-2.0
"""Raw label values become class numbers: "positive" or "negative", 0 or 1, stars with a neutral band, any classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessing.base.errors import ConfigError

UNKNOWN, NEUTRAL = -2, -1
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")


def spelling(value: Any) -> str | None:
    """The one spelling of a raw label: 1, 1.0 and True are ``1``, " Positive " is ``positive``; none for a null."""
    if value is None or value != value:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, bool):
        value = int(value)
    text = str(value).strip().casefold()
    number = WHOLE_NUMBER.fullmatch(text)
    text = number[1] if number else text
    return {"true": "1", "false": "0"}.get(text, text)


class LabelMap:
    """Class names in order, and the raw values that mean each."""

    def __init__(self, labels: Mapping[str, Sequence[Any]], neutral: Sequence[Any] = ()) -> None:
        """Raises ``ConfigError`` for fewer than two classes, a class without values or a value with two meanings."""
        if len(labels) < 2:
            raise ConfigError(f"source.labels: {list(labels)} is too few: a classifier needs two classes or more")
        self.names = list(labels)
        self.numbers: dict[str, int] = {}
        meanings = [(name, number, values) for number, (name, values) in enumerate(labels.items())]
        for name, number, values in [*meanings, ("neutral", NEUTRAL, neutral)]:
            if not isinstance(values, (list, tuple)) or (not values and number != NEUTRAL):
                raise ConfigError(f"source.labels.{name}: {values!r} is no list of values: name those that mean it")
            for value in values:
                key = spelling(value)
                if key is None or key in self.numbers:
                    why = "is no label" if key is None else "already has a meaning; name each value once"
                    raise ConfigError(f"source.labels.{name}: {value!r} {why}")
                self.numbers[key] = number

    def number(self, value: Any) -> int:
        """The class of one raw value: its number, ``NEUTRAL`` or ``UNKNOWN``."""
        key = spelling(value)
        return UNKNOWN if key is None else self.numbers.get(key, UNKNOWN)

    def numbers_of(self, column: pa.Array) -> np.ndarray:
        """int32 ``[rows]``: the class of every row of a column; each distinct value is looked at once."""
        encoded = column.dictionary_encode(null_encoding="encode")
        distinct = [self.number(value) for value in encoded.dictionary.to_pylist()]
        return np.array(distinct, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]

    def expected(self) -> str:
        """The values that would be right, for a sentence."""
        return ", ".join(self.numbers)
