# SPDX-License-Identifier: Apache-2.0
"""Finds the columns of text, label and split that the user has not named, and gives hints on unused columns.

A column called ``text`` or ``label`` is taken. Otherwise columns are judged by a sample of their values; among
candidates, those with a usual name win. If several or none are left, ``DataError`` names them and the key.
Lines that begin with ``source:`` or ``splits:`` say what was found; none are printed for columns ``text`` and
``label`` in a file of the expected form. Lines that begin with ``hint:`` name unused columns of splits or groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import listed
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.convert import check_names
from preprocessing.corpus.readers import LABEL_NAME, TEXT_NAME, Reader, normalize_name, open_reader
from preprocessing.corpus.sources import File
from preprocessing.labels import AUTO, NUMBER, as_found, drop_zero_fraction, is_list, spelling

NEVER_LABEL_NAME = re.compile(
    r"(.+_)?(id|ids|uuid|index|idx|split|subset|fold|partition|date|time|timestamp|year|month|day|datum|user|username|film|movie|"
    r"product|item|length|len|count|num|number|unnamed_0)"
)
"""Columns that are never taken for the label unless they are named."""
MAX_USUAL_CLASSES = 200
"""Most distinct values of a label column without a usual name."""
NUM_WORDS, NUM_LETTERS = 3, 12
"""A text has at least so many words, or letters of scripts without spaces, on average."""
NO_TEXT = re.compile(
    r"""(?: \d{1,2}([-/.])\d{1,2}\1(?:\d{4}|\d{2}) | \d{4}([-/.])\d{1,2}\2\d{1,2} # 31.12.2024, 2024-12-31
          | (?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]) # 20241231
          | (?:\d{1,2}\.?\ )?(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zä]*\.?
            (?:\ \d{1,2}(?:st|nd|rd|th)?,?)?\ \d{4} ) # 5 March 2024, Jan 5, 2024
        (?:[T ,]+\d{1,2}:\d{2}.*)?
      | \d{1,2}[-/.]\d{4} | (?:19|20)\d\d[-/.]\d{1,2} # 12/2024, 2024-12
      | \d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\ ?[ap]\.?m\.?|\ uhr)? # 10:05, 1:05 PM
      | [a-z][a-z0-9+.-]{1,9}://.* | www\..* | [^\s@]+@[^\s@]+\.\w+ # addresses
      | \d+(?:\.\d+){3} | (?=.*\d)[0-9a-f]{8}-?[0-9a-f-]{4,} | \S+\.(?:txt|json|csv|html?|pdf|png|jpe?g|wav|mp3)
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Values that are neither texts nor labels: dates, times, addresses, identifiers, file names."""
LETTER_OF_WIDE_SCRIPT = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
GROUP_NAME = re.compile(
    r"(.+[_\- ]|)(film|movie|user|username|product|item|author|writer|thread|customer|client|reviewer|speaker|patient|"
    r"conversation|dialogue|session|business|restaurant|hotel|seller|brand|book|album|artist|domain|asin)s?"
    r"([_\- ]?(id|name|title))?|.+[_\- ]id|.+[a-z]Id",
    re.IGNORECASE,
)
"""Names of group columns; ``id`` alone identifies the row."""
SPLIT_NAMES = ("split", "subset")
SAMPLE_ROWS = 4000
Holder = TypeVar("Holder", File, PreprocessConfig)


@dataclass(frozen=True)
class ColumnFacts:
    """What a sample of a column's values tells."""

    name: str
    normalized_name: str
    texts: list[str]
    """The non-empty values; none if some are lists or objects."""
    is_text: bool
    """Whether they are sentences, or texts under a usual name, and differ from row to row."""
    is_label: bool
    """Whether few values are distinct, and all are short."""


def examine_column(name: str, values: Sequence[Any]) -> ColumnFacts:
    """Judge a column by a sample of its values."""
    normalized = normalize_name(name)
    filled = [value for value in values if value is not None and value == value and value != ""]
    is_nested = any(isinstance(value, list | dict) for value in filled)
    texts = [] if is_nested else list(map(drop_zero_fraction, map(str, map(as_found, filled))))
    is_full, number, num_distinct = 2 * len(filled) >= len(values), len(texts), len(set(texts))
    num_numbers = sum(NUMBER.fullmatch(text.strip()) is not None for text in texts)
    num_dates = sum(NO_TEXT.fullmatch(text.strip()) is not None for text in texts)
    num_words = sum(len(text.split()) for text in texts)
    num_letters = sum(len(LETTER_OF_WIDE_SCRIPT.findall(text)) for text in texts)
    is_written = 2 * (num_numbers + num_dates) < number
    is_long = num_words >= NUM_WORDS * number or num_letters >= NUM_LETTERS * number
    is_usual = LABEL_NAME.fullmatch(normalized) is not None
    is_fractional = num_numbers == number and not all(text.strip().strip("+-").isdigit() for text in texts)
    max_distinct = min(MAX_USUAL_CLASSES, number - 1 if is_usual else number // 2)
    repeats = (1 if is_usual else 2) <= num_distinct <= max_distinct and max(map(len, texts)) <= 100
    may_be_label = is_usual or not (is_fractional or NEVER_LABEL_NAME.fullmatch(normalized))
    return ColumnFacts(
        name=name,
        normalized_name=normalized,
        texts=texts,
        is_text=is_full
        and is_written
        and (is_long or TEXT_NAME.fullmatch(normalized) is not None)
        and num_distinct > max(1, number // 5),
        is_label=is_full and repeats and 2 * num_dates < number and may_be_label,
    )


def find_candidates(columns: Sequence[ColumnFacts], role: str) -> list[ColumnFacts]:
    """The columns that may be the ``text`` or the ``label``; if several, the user must choose."""
    if namesakes := [column for column in columns if column.normalized_name == role]:
        return [column for column in namesakes if column.name == role] or namesakes
    usual_name = LABEL_NAME if role == "label" else TEXT_NAME
    fitting = [column for column in columns if getattr(column, f"is_{role}")]
    return [column for column in fitting if usual_name.fullmatch(column.normalized_name)] or fitting


def read_sample(file: File) -> Reader:
    """The reader of a file, which has read ``values``. Raises ``DataError`` for an unreadable file."""
    reader = open_reader(file)
    for name, values in reader.sample().items():
        reader.values[name] = values[:: 1 + len(values) // (SAMPLE_ROWS + 1)]
    return reader


@dataclass(frozen=True)
class Resolved:
    """A source with every ``auto`` replaced."""

    files: list[File]
    chosen: dict[str, Any]
    """``text_column``, ``label_column``, ``columns`` and ``labels`` of the source."""
    split_column: str | None
    lines: list[str]
    """Lines to print."""
    hints: list[str]
    """Hints on the first labelled file: see ``iter_hints``."""


def apply_columns(holder: Holder, chosen: dict[str, Any], split_column: str | None) -> Holder:
    """A file or a configuration with ``auto`` replaced."""
    splits = replace(holder.splits, column=split_column)
    return replace(holder, source=replace(holder.source, **chosen), splits=splits)


def resolve(files: Sequence[File]) -> Resolved:
    """Replace ``auto`` for all files by what the first labelled and the first unlabelled file show.

    Raises ``DataError`` for a file that cannot be read, and if its text or label column is not found.
    """
    lines = list[str]()
    if (sheet := files[0].source.sheet) and all(file.format != "xlsx" for file in files):
        raise ConfigError(f"source.sheet: {sheet}: {files[0].name} is no Excel file; leave this out")
    sample = name_columns(read_sample(files[0]), lines)
    source = sample.file.source
    texts = find_columns(sample, "text", [source.label_column], lines)
    (label,) = find_columns(sample, "label", texts, lines)
    text_column = texts if len(texts) > 1 else texts[0]
    chosen = {
        "text_column": text_column,
        "label_column": label,
        "columns": source.columns,
        "labels": source.labels,
    }
    split_column = find_split_column(sample, texts, label, lines)
    first = apply_columns(sample.file, chosen, split_column)
    filled = [name for name, values in sample.values.items() if values.count(None) < len(values)]
    check_names(first, list(dict.fromkeys([*sample.columns, *sample.names, *filled])))
    labelled = [apply_columns(file, chosen, split_column) for file in files if not file.is_unlabelled]
    unlabelled = resolve_unlabelled([file for file in files if file.is_unlabelled], chosen, lines)
    return Resolved(labelled + unlabelled, chosen, split_column, lines, list(iter_hints(sample, first)))


def resolve_unlabelled(files: Sequence[File], chosen: dict[str, Any], lines: list[str]) -> list[File]:
    """Files without labels with their text column; appends the lines to print to ``lines``.

    The text column ``chosen`` of the labelled files is taken if the first file has it, else the one that is found.
    """
    with_columns = [file for file in files if file.format not in ("folder", "txt")]
    if with_columns:
        sample = name_columns(read_sample(with_columns[0]), lines)
        chosen = chosen | {"columns": sample.file.source.columns}
        columns = sample.columns
        texts = replace(sample.file.source, **chosen).text_columns
        if not all({name, name.partition(".")[0]} & {*columns} for name in texts):
            (text,) = columns if len(columns) == 1 else find_columns(sample, "text", [], lines)
            chosen |= {"text_column": text}
    return [apply_columns(file, chosen, None) for file in files]


def name_columns(sample: Reader, lines: list[str]) -> Reader:
    """Name the columns of a table without a header line; appends what is unusual about a file to ``lines``."""
    file = sample.file
    if sample.form.recorded:
        lines.append(f"source: {file.name}: {sample.form}")
    if file.format not in ("csv", "xlsx") or file.source.columns or not begins_with_row(sample):
        return sample
    names = [f"column_{position}" for position in range(1, len(sample.columns) + 1)]
    lines.append(f"source: {file.name}: there is no header line; columns are called {', '.join(names)}")
    return read_sample(replace(file, source=replace(file.source, columns=names)))


def begins_with_row(sample: Reader) -> bool:
    """Whether the first line is a row: a sentence in a text column, and a known value in each label column."""
    if {"text", "label", *sample.file.key_by_column} & {*sample.columns}:
        return False
    columns = [examine_column(name, values) for name, values in sample.values.items()]
    labels = [column.name for column in columns if column.is_label]
    texts = [column.name for column in columns if column.is_text]
    are_values = all(name in sample.values[name] for name in labels)
    return any(map(is_sentence, texts)) and are_values and (bool(labels) or sample.file.is_unlabelled)


def is_sentence(text: str) -> bool:
    """Whether the name of a column is too long for one."""
    num_letters = len(LETTER_OF_WIDE_SCRIPT.findall(text))
    return len(text) >= 40 or len(text.split()) > NUM_WORDS or num_letters >= NUM_LETTERS


def find_columns(sample: Reader, role: str, excluded: list[str], lines: list[str]) -> list[str]:
    """The columns of the ``text``, or that of the ``label``; appends the lines to print to ``lines``.

    Columns that are ``excluded`` have the other role. Raises ``DataError`` for several candidates, or none.
    """
    source, name, key = sample.file.source, sample.file.name, f"{role}_column"
    configured = source.text_columns if role == "text" else [source.label_column]
    if configured != [AUTO] or role in sample.columns:
        return [role] if configured == [AUTO] else configured
    if sample.values and not any(sample.values.values()):
        raise DataError(f"{name}: the corpus is empty: no row to learn from")
    used = used_columns(sample, *excluded)
    values = {column: sample.values[column] for column in sample.values if column not in used}
    if role == "label" and source.missing_label != "error":  # then few rows may have a label
        values = {column: list(filter(spelling, cells)) for column, cells in values.items()}
    candidates = find_candidates([examine_column(column, cells) for column, cells in values.items()], role)
    if len(candidates) > 1:
        names = listed([column.name for column in candidates])
        raise DataError(f"{name}: which column is the {role}? It could be {names}; set source.{key}")
    if not candidates:
        raise DataError(no_candidate_sentence(sample, role))
    lines.append(f"source: {name}: the {role} is column {candidates[0].name!r} (source.{key})")
    return [candidates[0].name]


def no_candidate_sentence(sample: Reader, role: str) -> str:
    """Why no column can be the text, or the label."""
    expected = "sentences" if role == "text" else "few values that repeat"
    names = listed(sample.names)
    if sample.file.format == "jsonl" and max(map(len, sample.values.values())) == 1:
        names += " in its one object; JSON needs an object for each row (to_json(…, orient='records') in pandas)"
    problem = f"has no column {role!r}, and none that looks like it ({expected}); it has {names}"
    return f"{sample.file.name}: {problem}; set source.{role}_column"


def used_columns(sample: Reader, *names: str) -> set[str | None]:
    """Columns that have a use already, and these names."""
    splits = sample.file.splits
    return {*names, splits.column, splits.group_column, splits.time_column, *sample.file.source.where}


def find_split_column(sample: Reader, texts: list[str], label: str, lines: list[str]) -> str | None:
    """The column of splits, if one is unambiguous; appends a line about it to ``lines``."""
    file = sample.file
    if file.splits.column != AUTO:
        return file.splits.column
    used = used_columns(sample, *texts, label)
    names = [name for name in sample.columns if name.casefold() in SPLIT_NAMES and name not in used]
    if file.split is not None or file.splits.time_column or len(names) != 1:
        return None
    if not all(spelling(value) in file.split_by_value for value in sample.values.get(names[0], [""])):
        return None
    problem = f"column {names[0]!r} names each row's split"
    lines.append(f"splits: {file.name}: {problem}; --splits.column null cuts splits at random instead")
    return names[0]


def iter_hints(sample: Reader, file: File) -> Iterator[str]:
    """Hints about a labelled file: unused columns of splits or groups, and labels that look like lists."""
    label, start = file.source.label_column, f"hint: {file.name}: column"
    if file.source.labels == AUTO and is_list({as_found(value) or "" for value in sample.values.get(label, [])}):
        yield (
            f"{start} {label!r} looks like several labels in one cell; each combination is a class of its own: keep "
            "one label a row, or say in source.labels what each combination means"
        )
    if file.split is not None or file.splits.column is not None:
        return
    unused = [name for name in sample.columns if name not in file.key_by_column]
    if splits := [name for name in unused if name.casefold() in SPLIT_NAMES]:
        yield f"{start} {splits[0]!r} is not used: rows of all its splits are mixed; set splits.column {splits[0]}"
    for name in filter(GROUP_NAME.fullmatch, () if file.splits.group_column else unused):
        texts = examine_column(name, sample.values.get(name, [])).texts
        if 1 < (num_distinct := len(set(texts))) < len(texts):
            problem = f"looks like a group (in {len(texts):,} rows {num_distinct:,} values)"
            reason = "splits are cut without it, so validation may be optimistic"
            yield f"{start} {name!r} {problem}; {reason}: see splits.group_column"
            return
