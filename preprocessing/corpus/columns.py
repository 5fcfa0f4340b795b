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
from preprocessing.corpus.sources import File, check_columns
from preprocessing.corpus.tables import Sample, sample
from preprocessing.labels import AUTO, NUMBER, as_found, is_list, spelling, whole

TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
LABEL_NAME = re.compile(
    r"(.+_)?(label|class|target|sentiment|category|categories|stars?|rating|polarity|emotion|intent|topic|genre|stance|"
    r"toxic|spam|gold|y)s?(_(id|name|text|index|label))?|department|score|v1"
)
NO_LABEL = re.compile(
    r"(.+_)?(id|ids|uuid|index|idx|split|subset|fold|partition|date|time|timestamp|year|month|day|datum|user|username|film|movie|"
    r"product|item|length|len|count|num|number|unnamed_0)"
)
"""Columns that are never taken for the label unless they are named."""
MANY_CLASSES = 200
"""Most distinct values of a label column without a usual name."""
WORDS, LETTERS = 3, 12
"""A text has at least so many words, or letters of scripts without spaces, on average."""
NEVER = re.compile(
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
WIDE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
GROUP_NAMES = re.compile(
    r"(.+[_\- ]|)(film|movie|user|username|product|item|author|writer|thread|customer|client|reviewer|speaker|patient|"
    r"conversation|dialogue|session|business|restaurant|hotel|seller|brand|book|album|artist|domain|asin)s?"
    r"([_\- ]?(id|name|title))?|.+[_\- ]id|.+[a-z]Id",
    re.IGNORECASE,
)
"""Names of group columns; ``id`` alone identifies the row."""
SPLIT_NAMES = ("split", "subset")
Holder = TypeVar("Holder", File, PreprocessConfig)


@dataclass(frozen=True)
class Column:
    """What a sample of a column's values tells."""

    name: str
    key: str
    """The normalized name: ``reviewText`` and ``Review Text`` are ``review_text``."""
    texts: list[str]
    """The non-empty values; none if some are lists or objects."""
    is_text: bool
    """Whether they are sentences, or texts under a usual name, and differ from row to row."""
    is_label: bool
    """Whether few values are distinct, and all are short."""


def looked_at(name: str, values: Sequence[Any]) -> Column:
    """Judge a column by a sample of its values."""
    key = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()).strip("_")
    there = [value for value in values if value is not None and value == value and value != ""]
    is_nested = any(isinstance(value, list | dict) for value in there)
    texts = [] if is_nested else [whole(as_found(value) or "") for value in there]
    is_full, number, distinct = 2 * len(there) >= len(values), len(texts), len(set(texts))
    numbers = [text for text in texts if NUMBER.fullmatch(text.strip())]
    others = [text for text in texts if NEVER.fullmatch(text.strip())]
    words, letters = (sum(len(found(text)) for text in texts) for found in (str.split, WIDE.findall))
    is_written = 2 * len(numbers + others) < number
    is_long = words >= WORDS * number or letters >= LETTERS * number or TEXT_NAME.fullmatch(key)
    is_usual = LABEL_NAME.fullmatch(key) is not None
    is_fractional = len(numbers) == number and not all(text.strip("+-").isdigit() for text in numbers)
    most = min(MANY_CLASSES, number - 1 if is_usual else number // 2)
    repeats = (1 if is_usual else 2) <= distinct <= most and max(map(len, texts)) <= 100
    return Column(
        name=name,
        key=key,
        texts=texts,
        is_text=bool(is_full and is_written and is_long and distinct > max(1, number // 5)),
        is_label=is_full
        and repeats
        and 2 * len(others) < number
        and (is_usual or not (is_fractional or NO_LABEL.fullmatch(key))),
    )


def candidates(columns: Sequence[Column], what: str) -> list[Column]:
    """The columns that may be the ``text`` or the ``label``; if several, the user must choose."""
    if exact := [column for column in columns if column.key == what]:
        return [column for column in exact if column.name == what] or exact
    usual = LABEL_NAME if what == "label" else TEXT_NAME
    fitting = [column for column in columns if getattr(column, f"is_{what}")]
    return [column for column in fitting if usual.fullmatch(column.key)] or fitting


@dataclass(frozen=True)
class Found:
    """A source with every ``auto`` replaced."""

    files: list[File]
    chosen: dict[str, Any]
    """``text_column``, ``label_column``, ``columns`` and ``labels`` of the source."""
    column: str | None
    """``column`` of the splits."""
    lines: list[str]
    """Lines to print."""
    hints: list[str]
    """Hints on the first labelled file: see ``hints``."""


def settled(holder: Holder, chosen: dict[str, Any], column: str | None) -> Holder:
    """A file or a configuration with ``auto`` replaced."""
    return replace(holder, source=replace(holder.source, **chosen), splits=replace(holder.splits, column=column))


def resolved(files: Sequence[File]) -> Found:
    """Replace ``auto`` for all files by what the first labelled and the first unlabelled file show.

    Raises ``DataError`` for a file that cannot be read, and if its text or label column is not found.
    """
    lines = list[str]()
    if (sheet := files[0].source.sheet) and all(file.format != "xlsx" for file in files):
        raise ConfigError(f"source.sheet: {sheet}: {files[0].name} is no Excel file; leave this out")
    seen = named(sample(files[0]), lines)
    source = seen.file.source
    texts = column_of(seen, "text", [source.label_column], lines)
    (label,) = column_of(seen, "label", texts, lines)
    chosen = {
        "text_column": texts if len(texts) > 1 else texts[0],
        "label_column": label,
        "columns": source.columns,
        "labels": source.labels,
    }
    column = split_of(seen, texts, label, lines)
    first = settled(seen.file, chosen, column)
    filled = [name for name, its in seen.values.items() if any(value is not None for value in its)]
    check_columns(first, list(dict.fromkeys([*seen.columns, *seen.names, *filled])))
    labelled = [settled(file, chosen, column) for file in files if not file.is_unlabelled]
    unlabelled = of_unlabelled([file for file in files if file.is_unlabelled], chosen, lines)
    return Found(labelled + unlabelled, chosen, column, lines, list(hints(seen, first)))


def of_unlabelled(files: Sequence[File], chosen: dict[str, Any], lines: list[str]) -> list[File]:
    """Files of ``source.unlabelled_path`` with their text column; appends the lines to print to ``lines``.

    The text column ``chosen`` of the labelled files is taken if the first file has it, else the one that is found.
    Labels are not read.
    """
    if first := next((file for file in files if file.format not in ("folder", "txt")), None):
        seen = named(sample(first), lines)
        chosen = chosen | {"columns": seen.file.source.columns}
        if not all(map(seen.has, replace(first.source, **chosen).text_columns)):
            (text,) = seen.columns if len(seen.columns) == 1 else column_of(seen, "text", [], lines)
            chosen |= {"text_column": text}
    return [settled(file, chosen, None) for file in files]


def named(seen: Sample, lines: list[str]) -> Sample:
    """Name the columns of a CSV file without a header line; appends what is unusual about a file to ``lines``."""
    file, names = seen.file, [f"column_{place}" for place in range(1, len(seen.columns) + 1)]
    if file.form.recorded:
        lines.append(f"source: {file.name}: {file.form}")
    if file.kind != "csv" or file.source.columns or not begins_with_row(seen):
        return seen
    lines.append(f"source: {file.name}: there is no header line; columns are called {', '.join(names)}")
    return sample(replace(file, source=replace(file.source, columns=names)))


def begins_with_row(seen: Sample) -> bool:
    """Whether the first line is a row: a sentence in a text column, and a known value in each label column."""
    if {"text", "label", *seen.file.wanted} & {*seen.columns}:
        return False
    columns = [looked_at(name, values) for name, values in seen.values.items()]
    labels = [one.name for one in columns if one.is_label]
    texts = [one.name for one in columns if one.is_text]
    sentences = [
        one for one in texts if len(one) >= 40 or len(one.split()) > WORDS or len(WIDE.findall(one)) >= LETTERS
    ]
    are_values = all(name in seen.values[name] for name in labels)
    return bool(sentences) and are_values and (bool(labels) or seen.file.is_unlabelled)


def column_of(seen: Sample, what: str, others: list[str], lines: list[str]) -> list[str]:
    """The columns of the ``text``, or that of the ``label``; appends the lines to print to ``lines``.

    ``others`` are those of the other one. Raises ``DataError`` if there are several candidates, or none.
    """
    file, source, name, key = seen.file, seen.file.source, seen.file.name, f"{what}_column"
    given = source.text_columns if what == "text" else [source.label_column]
    if given != [AUTO] or what in seen.columns:
        return [what] if given == [AUTO] else given
    if seen.values and not any(seen.values.values()):
        raise DataError(f"{name}: the corpus is empty: no row to learn from")
    values = {one: its for one, its in seen.values.items() if one not in taken(seen, *others)}
    if what == "label" and source.missing_label != "error":  # then few rows may have a label
        values = {one: [value for value in its if spelling(value)] for one, its in values.items()}
    found = candidates([looked_at(one, its) for one, its in values.items()], what)
    if len(found) > 1:
        some = listed([one.name for one in found])
        raise DataError(f"{name}: which column is the {what}? It could be {some}; set source.{key}")
    if not found:
        expected = "sentences" if what == "text" else "few values that repeat"
        there = listed(seen.names)
        if file.kind == "jsonl" and len(seen.values[source.text_columns[0]]) == 1:
            there += " in its one object; JSON needs an object for each row (to_json(…, orient='records') in pandas)"
        raise DataError(
            f"{name}: has no column {what!r}, and none that looks like it ({expected}); it has {there}; "
            f"set source.{key}"
        )
    lines.append(f"source: {name}: the {what} is column {found[0].name!r} (source.{key})")
    return [found[0].name]


def taken(seen: Sample, *others: str) -> set[str | None]:
    """Columns that already have another use."""
    splits = seen.file.splits
    return {*others, splits.column, splits.group_column, splits.time_column, *seen.file.source.where}


def split_of(seen: Sample, texts: list[str], label: str, lines: list[str]) -> str | None:
    """The column of splits, if one is unambiguous; appends a line about it to ``lines``."""
    file = seen.file
    if file.splits.column != AUTO:
        return file.splits.column
    names = [name for name in seen.columns if name.casefold() in SPLIT_NAMES and name not in taken(seen, *texts, label)]
    if file.split is not None or file.splits.time_column or len(names) != 1:
        return None
    known = file.spellings
    if not all(spelling(value) in known for value in seen.values.get(names[0], [""])):
        return None
    which = f"column {names[0]!r} names each row's split"
    lines.append(f"splits: {file.name}: {which}; --splits.column null cuts splits at random instead")
    return names[0]


def hints(seen: Sample, file: File) -> Iterator[str]:
    """Hints about a labelled file: unused columns of splits or groups, and labels that look like lists."""
    label, hint = file.source.label_column, f"hint: {file.name}: column"
    if file.source.labels == AUTO and is_list({as_found(value) or "" for value in seen.values.get(label, [])}):
        yield (
            f"{hint} {label!r} looks like several labels in one cell; each combination is a class of its own: keep one "
            "label a row, or say in source.labels what each combination means"
        )
    if file.split is not None or file.splits.column is not None:
        return
    others = [name for name in seen.columns if name not in file.wanted]
    if unused := [name for name in others if name.casefold() in SPLIT_NAMES]:
        yield f"{hint} {unused[0]!r} is not used: rows of all its splits are mixed; set splits.column {unused[0]}"
    for name in filter(GROUP_NAMES.fullmatch, () if file.splits.group_column else others):
        texts = looked_at(name, seen.values.get(name, [])).texts
        if 1 < (distinct := len(set(texts))) < len(texts):
            what = f"looks like a group (in {len(texts):,} rows {distinct:,} values)"
            why = "splits are cut without it, so validation may be optimistic"
            yield f"{hint} {name!r} {what}; {why}: see splits.group_column"
            return
