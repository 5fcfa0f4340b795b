# SPDX-License-Identifier: Apache-2.0
"""Finds the columns of text, label and split that the user has not named.

A column called ``text`` or ``label`` is taken. Otherwise columns are judged by a sample of their values: a text has
several words and differs from row to row, a label has few values that repeat. Among candidates, those with a usual name
win. If several or none are left, ``DataError`` names them and the key.

Lines that begin with ``source:`` or ``splits:`` say what was found; none are printed for columns ``text`` and
``label`` in a file of the expected form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from padless.core.errors import DataError
from padless.core.untrusted import join_names
from preprocessing.config import PreprocessConfig
from preprocessing.labels import AUTO, LIST, find_separator, normalize_label, split_labels
from preprocessing.sources.batches import Reader
from preprocessing.sources.convert import check_names
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import File

Role = Literal["text", "label"]
TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
"""Usual names of columns of texts, as ``normalize_name`` gives them."""
NUM_WORDS, NUM_WIDE_LETTERS = 3, 12
"""A text has at least so many words, or letters of scripts that are written without spaces."""
WIDE_LETTER = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
LABEL_NAME = re.compile(
    r"(.+_)?(label|class|target|sentiment|category|categories|stars?|rating|polarity|emotion|intent|topic|genre|stance|"
    r"toxic|spam|gold|y)s?(_(id|name|text|index|label))?|department|score|v1"
)
NEVER_LABEL_NAME = re.compile(
    r"(.+_)?(id|ids|uuid|index|idx|split|subset|fold|partition|date|time|timestamp|year|month|day|datum|user|username|film|movie|"
    r"product|item|length|len|count|num|number|unnamed_0|predicted)"
)
"""Columns that are never taken for the label unless they are named."""
MAX_CLASSES = 200
"""Most distinct values of a label column that is not named."""
MAX_LABEL_CHARACTERS = 100
DATE_OR_FRACTION = re.compile(r"[+-]?\d+[-/.:]\d")
"""The beginning of a value that is neither a text nor a label."""
SPLIT_NAMES = ("split", "subset")
SAMPLE_ROWS = 4000
Holder = TypeVar("Holder", File, PreprocessConfig)


@dataclass(frozen=True)
class ResolvedSource:
    """A source with every ``auto`` replaced."""

    files: list[File]
    chosen: dict[str, Any]
    """``text_column``, ``label_column`` and ``labels_separator`` of the source."""
    split_column: str | None
    lines: list[str]
    """Lines to print."""


def apply_columns(holder: Holder, chosen: dict[str, Any], split_column: str | None) -> Holder:
    """A file or a configuration with ``auto`` replaced."""
    splits = replace(holder.splits, column=split_column)
    return replace(holder, source=replace(holder.source, **chosen), splits=splits)


def resolve_source(files: Sequence[File]) -> ResolvedSource:
    """Replace ``auto`` for all files by what the first labelled and the first unlabelled file show.

    Raises ``DataError`` for a file that cannot be read, and if its text or label column is not found.
    """
    file, source, reader = files[0], files[0].source, open_reader(files[0])
    sample = {name: cells[:: 1 + len(cells) // (SAMPLE_ROWS + 1)] for name, cells in reader.read_sample().items()}
    form = ", ".join(f"{name} {value!r}" for name, value in reader.read_as.items())
    lines = [f"source: {file.name}: {form}"] if form else []
    label = source.label_column
    texts = find_columns(reader, sample, "text", {label}, lines) if AUTO in source.text_columns else source.text_columns
    if label == AUTO:
        (label,) = find_columns(reader, sample, "label", {*texts}, lines)
    if label in texts:
        problem = f"{label!r} is the label and a part of the text, which would hold its own answer"
        raise DataError(f"{file.name}: {problem}; change source.text_column or source.label_column")
    chosen = {
        "text_column": texts if len(texts) > 1 else texts[0],
        "label_column": label,
        "delimiter": reader.read_as.get("delimiter", source.delimiter),
        "labels_separator": choose_separator(file, label, sample.get(label, ()), lines),
    }
    split_column = file.splits.column
    if split_column == AUTO:
        split_column = find_split_column(file, sample, {*texts, label}, lines)
    if file.splits.names and split_column is None and file.format != "folder":
        raise DataError(f"{file.name}: no column names splits, as splits.names expects; name it with splits.column")
    check_names(apply_columns(file, chosen, split_column), reader.columns)
    labelled = [apply_columns(file, chosen, split_column) for file in files if not file.is_unlabelled]
    unlabelled = resolve_unlabelled([file for file in files if file.is_unlabelled], chosen, lines)
    return ResolvedSource(labelled + unlabelled, chosen, split_column, lines)


def resolve_unlabelled(files: Sequence[File], chosen: dict[str, Any], lines: list[str]) -> list[File]:
    """Files without labels with their text column: the ``chosen`` one of the labelled files if the first file has it,
    else ``text``, the only one, or the one that is found, about which a line to print is added to ``lines``.
    """
    resolved = [apply_columns(file, chosen, None) for file in files]
    tables = [file for file in resolved if file.format not in ("folder", "txt")]
    if not tables:
        return resolved
    source, reader = tables[0].source, open_reader(tables[0])
    columns = reader.columns
    options: dict[str, Any] = {"columns": source.columns if source.columns == columns else []}
    if not {*source.text_columns} <= {*columns}:
        is_only = len(columns) == 1
        (options["text_column"],) = (
            columns if is_only else find_columns(reader, reader.read_sample(), "text", {source.label_column}, lines)
        )
    return [apply_columns(file, options, None) for file in resolved]


def normalize_name(name: str) -> str:
    """The name of a column: ``reviewText`` and ``Review Text`` are ``review_text``."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()).strip("_")


def find_columns(
    reader: Reader, sample: Mapping[str, list[Any]], role: Role, other_columns: set[str], lines: list[str]
) -> list[str]:
    """The column of a role, alone in a list; appends a line to print to ``lines`` unless it is called like the role.

    ``other_columns`` have the other role. Raises ``DataError`` for several candidates, or none.
    """
    if role in reader.columns:
        return [role]
    name, source, splits = reader.file.name, reader.file.source, reader.file.splits
    if not any(sample.values()):
        raise DataError(f"{name}: its columns ({join_names(reader.columns)}) hold no texts; name another file")
    used = {*other_columns, splits.column, splits.group_column, splits.time_column, *source.where}
    candidates = find_candidates({column: cells for column, cells in sample.items() if column not in used}, role)
    if len(candidates) > 1:
        problem = f"which column is the {role}? It could be {join_names(candidates)}"
        raise DataError(f"{name}: {problem}; set source.{role}_column")
    if not candidates:
        expected = "sentences" if role == "text" else "few values that repeat"
        problem = (
            f"has no column {role!r}, and none that looks like it ({expected}); it has {join_names(reader.columns)}"
        )
        hint = "or if its first line is a row, name the columns, as in --source.columns '[text, label]'"
        raise DataError(f"{name}: {problem}; set source.{role}_column, {hint}")
    lines.append(f"source: {name}: the {role} is column {candidates[0]!r} (source.{role}_column)")
    return candidates


def find_candidates(sample: Mapping[str, list[Any]], role: Role) -> list[str]:
    """The columns that may be the text or the label; if several, the user must choose."""
    names = {column: normalize_name(column) for column in sample}
    namesakes = [column for column in sample if names[column] == role]
    if namesakes:
        return namesakes
    usual_name = TEXT_NAME if role == "text" else LABEL_NAME
    usual = [column for column in sample if usual_name.fullmatch(names[column])]
    never = [column for column in sample if NEVER_LABEL_NAME.fullmatch(names[column]) and column not in usual]
    candidates = []
    for column, cells in sample.items():
        values = [str(cell) for cell in cells if cell]
        if find_role(values, LABEL_NAME.fullmatch(names[column]) is not None) == role:
            candidates.append(column)
    preferred = [column for column in candidates if column in usual]
    allowed = [column for column in candidates if column not in never]
    return preferred or allowed or usual


def find_role(values: Sequence[str], has_label_name: bool) -> Role | None:
    """What a column can be by its values: texts have several words and mostly differ, labels are few and short. Lists
    are labels, and in a column with the usual name of labels each part of a cell.
    """
    separator = find_separator(values)
    if separator == LIST or (separator and has_label_name):
        num_distinct = len({label for value in values for label in split_labels(value, separator)})
        return "label" if 2 <= num_distinct <= MAX_CLASSES else None
    num_words = sum(len(value.split()) for value in values)
    num_wide_letters = sum(len(WIDE_LETTER.findall(value)) for value in values)
    is_long = num_words >= NUM_WORDS * len(values) or num_wide_letters >= NUM_WIDE_LETTERS * len(values)
    num_distinct = len({*values})
    if is_long and num_distinct > max(1, len(values) // 5):
        return "text"
    is_few = 2 <= num_distinct <= min(MAX_CLASSES, len(values) // 2)
    is_plain = not any(len(value) > MAX_LABEL_CHARACTERS or DATE_OR_FRACTION.match(value) for value in values)
    return "label" if is_few and is_plain else None


def choose_separator(file: File, label_column: str, cells: Sequence[Any], lines: list[str]) -> str | None:
    """``source.labels_separator``, or the separator that ``cells`` of the label column show; then a line about it is
    added to ``lines``. What a map of labels names are whole cells.
    """
    separator = find_separator(cells) if file.source.labels_separator == AUTO else None
    if separator is None or (separator != LIST and file.source.labels != AUTO):
        return file.source.labels_separator
    form = "lists of labels"
    if separator != LIST:
        form = f"several labels with {separator!r} between; --source.labels_separator null takes each cell as one label"
    lines.append(f"source: {file.name}: column {label_column!r} holds {form}")
    return separator


def find_split_column(
    file: File, sample: Mapping[str, list[Any]], other_columns: set[str], lines: list[str]
) -> str | None:
    """The column of splits, if one is unambiguous; appends a line about it to ``lines``."""
    names = [name for name in sample if name.casefold() in SPLIT_NAMES and name not in other_columns]
    if file.split is not None or file.splits.time_column or len(names) != 1:
        return None
    if not all(normalize_label(value) in file.split_by_value for value in sample[names[0]]):
        return None
    problem = f"column {names[0]!r} names each row's split"
    lines.append(f"splits: {file.name}: {problem}; --splits.column null cuts splits at random instead")
    return names[0]
