# SPDX-License-Identifier: Apache-2.0
"""Converts raw label values to class numbers: by ``source.labels``, or with ``auto``, one class per distinct value.

``auto`` names a class by its raw value and sorts the names: numbers by size, then texts. The type of the column is
recorded, so that predictions are values of that type.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from padless.core.errors import ConfigError
from padless.core.untrusted import quote_value

AUTO: Final = "auto"
LabelType = Literal["text", "int", "float", "bool"]
"""The type of a column of labels. Text files, and classes named by ``source.labels``, have texts."""
MAX_CLASSES = 1000
"""Most distinct values of a label column without a map."""
LIST: Final = "list"
"""In place of a separator, for a column of lists."""
SEPARATORS = ",;|"
"""Those that ``auto`` looks for."""
NAME_END = "\x1f"
"""After each name of a label set that is one text (ASCII's unit separator)."""
MAX_LABEL_SETS = 1 << 16
WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0+")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_TEXT = r"""('([^'\\]|\\.)*'|"([^"\\]|\\.)*")"""
_ITEM = rf"({_TEXT}|-?\d+(\.\d+)?|None)"
_LIST = rf"\[\s*({_ITEM}\s*(,\s*{_ITEM}\s*)*)?\]"
_TUPLE_OR_SET = rf"\(\s*(({_TEXT}\s*,\s*)+({_TEXT}\s*)?)?\)|\{{\s*{_TEXT}\s*(,\s*{_TEXT}\s*)*\}}"
LIST_AS_TEXT = re.compile(rf"\s*({_LIST}|{_TUPLE_OR_SET})\s*", re.DOTALL)
"""A list, tuple or set in a cell of CSV, as pandas writes it: ``['joy', 'fear']``."""


def normalize_label(value: Any) -> str | None:
    """The normalized spelling of a raw label: 1, 1.0 and True are ``1``, " Positive " is ``positive``; null is None."""
    text = name_label_value(value)
    text = None if text is None else drop_zero_fraction(text.strip().casefold())
    return {"true": "1", "false": "0"}.get(text or "", text)


def name_label_value(value: Any) -> str | None:
    """The class name that ``auto`` gives a raw label: a text in Unicode's composed form (NFC), the numbers 1 and 1.0
    ``1``, True ``true``. Inverse of ``convert_names``. Raises ``ValueError`` for bytes that are not UTF-8.
    """
    if value is None or value != value:
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            problem = f"the label {quote_value(value)} is not UTF-8 ({error})"
            raise ValueError(f"{problem}; set source.encoding, or correct the row") from None
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        value = f"{value:f}"  # a float would merge long ones
        value = value.rstrip("0").rstrip(".") if "." in value else value
    return drop_zero_fraction(str(value))


def drop_zero_fraction(text: str) -> str:
    """``1.0`` as ``1``, ``-0.0`` as ``0``; other texts unchanged."""
    number = WHOLE_NUMBER.fullmatch(text)
    whole = number[1] if number else text
    return "0" if whole == "-0" else whole


def type_of(kind: pa.DataType) -> LabelType | None:
    """The type of an Arrow column of labels, or of lists of them; None for one of nulls."""
    if is_list(kind):
        return type_of(kind.value_type)
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float"
    if pa.types.is_null(kind):
        return None
    return "bool" if pa.types.is_boolean(kind) else "text"


def is_list(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are lists, of any length, of texts or numbers."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not pa.types.is_nested(kind.value_type)


def common_type(types: Iterable[LabelType | None], names: Sequence[str]) -> LabelType:
    """The type of a column of labels: the common type of its parts, else text."""
    distinct_types = set(types) - {None}
    if distinct_types == {"int", "float"}:
        distinct_types = {"float"}
    kind = distinct_types.pop() if len(distinct_types) == 1 else None
    return kind if kind and fits_label_type(names, kind) else "text"


def fits_label_type(names: Sequence[str], kind: LabelType) -> bool:
    """Whether class names are values of a type; whole numbers must fit int64."""
    try:
        return [name_label_value(value) for value in convert_names(names, kind).tolist()] == list(names)
    except ValueError:
        return False


def convert_names(names: Sequence[str], kind: LabelType) -> np.ndarray:
    """The classes as values of the column's type: int64, float64, bool, or texts (object).

    Raises ``ValueError`` for a name that cannot be converted.
    """
    column_type = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.large_string()}[kind]
    return pa.array(names, pa.large_string()).cast(column_type).to_numpy(zero_copy_only=False)


class LabelMap:
    """Class names in order, and the raw values of each."""

    def __init__(self, labels: Mapping[str, Sequence[Any]]) -> None:
        """Raises ``ConfigError`` for fewer than two classes, and a value with two meanings."""
        if len(labels) < 2:
            raise ConfigError(f"source.labels: {list(labels)} is too few: a classifier needs two classes or more")
        self.names = list(labels)
        self.name_by_value: dict[str, str] = {}
        """Class name by normalized value."""
        for name, values in labels.items():
            for value in values:
                key = normalize_label(value)
                if key is None or key in self.name_by_value:
                    problem = f"{value!r} is null, or has a meaning already; name each value once"
                    raise ConfigError(f"source.labels.{name}: {problem}")
                self.name_by_value[key] = name


def distinct(column: pa.Array) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column, null included, and each row's index into them."""
    encoded = column.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def order_classes(values: Collection[str]) -> tuple[list[str], dict[str, int]]:
    """``auto`` on the whole corpus: the class names in order, and the class number of each label value.

    ``1`` and ``1.0`` are one class. Numbers come first, by size; then texts.
    """
    num_spellings = Counter(map(drop_zero_fraction, values))
    name_by_value = {}
    for value in values:
        number = drop_zero_fraction(value)
        name_by_value[value] = number if num_spellings[number] > 1 else value
    names = sorted({*name_by_value.values()}, key=sort_key)
    return names, {value: names.index(name) for value, name in name_by_value.items()}


def sort_key(name: str) -> tuple[bool, float, str]:
    """Numbers come first, by size; then texts."""
    number = NUMBER.fullmatch(name) is not None
    return not number, float(name) if number else 0.0, name


def find_separator(values: Collection[Any]) -> str | None:
    """What separates the labels in the cells of a column: ``LIST`` if one is a label set, one of ``SEPARATORS``, or
    None for one label to a cell.

    Cells look like several labels where ``comedy,drama`` stands next to ``drama`` and ``drama,war``: most of their
    parts occur in other cells too. Those of a name such as ``Arts, Crafts and Sewing`` do not.
    """
    cells = {name_label_value(value) or "" for value in values}
    if any(cell.endswith(NAME_END) or LIST_AS_TEXT.fullmatch(cell) for cell in cells):
        return LIST
    for separator in SEPARATORS:
        parts_of_cells = [{*split_labels(cell, separator)} for cell in cells]
        lists = [parts for parts in parts_of_cells if len(parts) > 1]
        num_cells = Counter(part for parts in parts_of_cells for part in parts)
        num_repeated = sum(num_cells[part] > 1 for parts in lists for part in parts)
        if len(lists) > 2 and 2 * num_repeated > sum(map(len, lists)):
            return separator
    return None


def check_label(label: Any) -> None:
    """Raise ``ValueError`` for a raw label that is a list or an object, or holds what separates labels here."""
    if isinstance(label, list | dict):
        raise ValueError(f"the label {quote_value(label)} is no text; write a text, or a list of texts")
    if isinstance(label, str) and NAME_END in label:
        raise ValueError(f"the label {quote_value(label)} holds a control character; remove it")


def join_label_set(labels: Iterable[Any]) -> str:
    """Raw labels, or names, as one text, the same for any order; inverse of ``split_label_set``. Raises ``ValueError``
    for an empty label, and as ``check_label``.
    """
    names = set[str]()
    for label in labels:
        check_label(label)
        name = name_label_value(label) or ""
        if not name.strip():
            raise ValueError("a label in the list is empty; take it out, or write [] for a text without any")
        names.add(name)
    return "".join(name + NAME_END for name in sorted(names))


def join_lists(values: Iterable[Any]) -> list[Any]:
    """Values of a sample with lists as label sets (``join_label_set``), others unchanged; none if one is no label."""
    try:
        return [join_label_set(value) if isinstance(value, list) else value for value in values]
    except ValueError:
        return []


def split_labels(cell: str, separator: str) -> list[str]:
    """The labels in a cell; ``separator`` as ``find_separator`` returns it."""
    if separator == LIST and LIST_AS_TEXT.fullmatch(cell):
        cell = join_label_set(ast.literal_eval(cell.strip()))
    labels = cell.split(NAME_END if separator == LIST else separator)
    return [label.strip() for label in labels if label.strip()]


def split_label_set(text: str) -> list[str]:
    """The names in a result of ``join_label_set``."""
    return text.split(NAME_END)[:-1]


def label_set_members(label_sets: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """Bool ``[sets, classes]``: which classes each label set has."""
    members = np.zeros((len(label_sets), num_classes), bool)
    for number, classes in enumerate(label_sets):
        members[number, classes] = True
    return members
