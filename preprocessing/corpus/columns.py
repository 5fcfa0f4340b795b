# SPDX-License-Identifier: Apache-2.0
"""Which columns of a file hold text, label and splits where nobody has named them, and hints on columns left unused.

A column called ``text`` or ``label`` is it. Else columns are judged by some of their values; of those that would do,
the ones with a usual name go before the rest. If more than one is left, or none, ``DataError`` names them and the key.
What is found is said in lines that begin with ``source:`` or ``splits:``; a source whose columns are ``text`` and
``label`` and whose form is the expected one is read without a word. Lines that begin with ``hint:`` name columns of
splits or groups that nothing uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN
from preprocessing.base.untrusted import listed
from preprocessing.config import EMBEDDED, PreprocessConfig, SourceConfig, SplitConfig
from preprocessing.corpus.sources import File
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
    r"(.+_)?(id|ids|uuid|index|idx|split|subset|fold|partition|date|time|timestamp|month|day|user|username|film|movie|"
    r"product|item|length|len|count|num|number|unnamed_0)"
)
"""Columns that may have few values and are never taken for the label unless they are named."""
MANY_CLASSES = 200
"""Most different values of a label whose name tells nothing."""
WORDS, LETTERS = 3, 12
"""What the values of a text have on average, one of the two at least; letters are those of scripts without spaces."""
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{1,2}:\d{2}.*")
WIDE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
GROUP_NAMES = re.compile(
    r"(.+[_\- ]|)(film|movie|user|username|product|item|author|writer|thread|customer|client|reviewer|speaker|patient|"
    r"conversation|dialogue|session|business|restaurant|hotel|seller|brand|book|album|artist|domain|asin)s?"
    r"([_\- ]?(id|name|title))?|.+[_\- ]id|.+[a-z]Id",
    re.IGNORECASE,
)
"""What columns of groups are called; ``id`` alone is the row's own."""
SPLIT_NAMES = ("split", "subset")
DEFAULTS = {"text_column": "text", "label_column": "label"}
"""Names of the columns of what has none, such as a folder, and of what has no rows."""


@dataclass(frozen=True)
class Column:
    """What some values of a column tell."""

    name: str
    filled: int
    """Values that are there."""
    is_full: bool
    """Whether at least half of them are."""
    distinct: int
    few: tuple[str, ...]
    """Some of the different values."""
    is_long: bool
    """Whether the values have so many ``WORDS`` or ``LETTERS`` on average."""
    longest: int
    """Characters of the longest value."""
    is_text: bool
    """Whether the values are texts, and no numbers, dates or addresses."""
    is_fractional: bool
    """Whether they are numbers, some of them not whole."""

    @property
    def key(self) -> str:
        """The name as the patterns above spell it: ``reviewText`` and ``Review Text`` are ``review_text``."""
        return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).casefold()).strip("_")

    @property
    def reads_like_text(self) -> bool:
        """Whether the values are sentences, or texts of a usual name, and different from row to row."""
        fits = self.is_long or TEXT_NAME.fullmatch(self.key) is not None
        return self.is_text and self.is_full and fits and self.distinct > max(1, self.filled // 5)

    @property
    def repeats_like_label(self) -> bool:
        """Whether there are few different values, each of them short."""
        named = LABEL_NAME.fullmatch(self.key) is not None
        if not named and (self.is_fractional or NO_LABEL.fullmatch(self.key)):
            return False
        most = min(MANY_CLASSES, self.filled - 1 if named else self.filled // 2)
        return self.is_full and 2 <= self.distinct <= most and self.longest <= 100


def looked_at(name: str, values: Sequence[Any]) -> Column:
    """Judge a column by some of its values."""
    there = [value for value in values if value is not None and value == value and value != ""]
    are_plain = all(isinstance(value, (str, bool, int, float)) or not hasattr(value, "__len__") for value in there)
    texts = [whole(as_found(value) or "") for value in there] if are_plain else []
    numbers = [text for text in texts if NUMBER.fullmatch(text.strip())]
    others = [text for text in texts if DATE.fullmatch(text) or "://" in text[:12]]
    words, letters = (sum(len(found(text)) for text in texts) for found in (str.split, WIDE.findall))
    seen = dict.fromkeys(texts)
    return Column(
        name=name,
        filled=len(texts),
        is_full=0 < len(values) <= 2 * len(there),
        distinct=len(seen),
        few=tuple(list(seen)[:4]),
        is_long=words >= WORDS * len(texts) or letters >= LETTERS * len(texts),
        longest=max(map(len, texts), default=0),
        is_text=all(isinstance(value, str) for value in there) and 2 * len(numbers + others) < len(texts),
        is_fractional=len(numbers) == len(texts) and any(not text.strip("+-").isdigit() for text in numbers),
    )


def candidates(columns: Sequence[Column], what: str) -> list[Column]:
    """The columns that may hold the ``text`` or the ``label``: one, or those among which the user must choose."""
    for key in ("name", "key"):
        if exact := [column for column in columns if getattr(column, key) == what]:
            return exact
    usual, fits = (LABEL_NAME, "repeats_like_label") if what == "label" else (TEXT_NAME, "reads_like_text")
    fitting = [column for column in columns if getattr(column, fits)]
    return [column for column in fitting if usual.fullmatch(column.key)] or fitting


@dataclass(frozen=True)
class Found:
    """A source without anything that is still ``auto``."""

    files: list[File]
    chosen: dict[str, Any]
    """``text_column``, ``label_column``, ``columns`` and ``labels`` of the source and ``column`` of the splits."""
    lines: list[str]
    """The lines to print."""

    def applied(self, config: PreprocessConfig) -> PreprocessConfig:
        """The configuration with what was found in the place of ``auto``."""
        source, splits = settled(config.source, config.splits, self.chosen)
        return replace(config, source=source, splits=splits)


def settled(source: SourceConfig, splits: SplitConfig, chosen: dict[str, Any]) -> tuple[SourceConfig, SplitConfig]:
    """Source and splits with what was found in the place of ``auto``."""
    names = {key: chosen[key] for key in (*DEFAULTS, "labels") if getattr(source, key) == AUTO}
    source = replace(source, columns=chosen["columns"], **names)
    return source, replace(splits, column=chosen["column"]) if splits.column == AUTO else splits


def applied_to(file: File, chosen: dict[str, Any]) -> File:
    """A file that knows what was found in the first one."""
    source, splits = settled(file.source, file.splits, chosen)
    return replace(file, source=source, splits=splits)


def resolved(files: Sequence[File]) -> Found:
    """Look into the first file, and into the first without labels, and settle what is ``auto`` for all of each kind.

    Raises ``DataError`` for a file that cannot be read, or whose columns of text and label cannot be found.
    """
    first, lines = files[0], list[str]()
    chosen = {**DEFAULTS, "columns": first.source.columns, "column": None, "labels": first.source.labels}
    if first.name != EMBEDDED and first.format != "folder":
        seen = named(sample(first))
        lines += said_of_form(seen)
        chosen["columns"] = seen.file.source.columns
        if not is_plain(seen):
            if not any(seen.values.values()):
                raise DataError(f"{first.name}: the corpus is empty: no row to learn from")
            columns = {name: looked_at(name, values) for name, values in seen.values.items()}
            text = column_of(seen, columns, "text", first.source.label_column, lines)
            label = column_of(seen, columns, "label", text, lines)
            chosen |= {"text_column": text, "label_column": label, "column": split_of(seen, text, label, lines)}
    labelled = [applied_to(file, chosen) for file in files if not file.is_unlabelled]
    return Found(labelled + of_unlabelled([file for file in files if file.is_unlabelled], chosen, lines), chosen, lines)


def of_unlabelled(files: Sequence[File], elsewhere: dict[str, Any], lines: list[str]) -> list[File]:
    """Files of ``source.unlabelled_path`` that know their text column; lines to print about them go to ``lines``.

    ``elsewhere`` is what was chosen for files with labels. Their text column is taken if it is here too, else the only
    column that there is; their label is not read.
    """
    chosen = {**elsewhere, "column": None}
    first = next((file for file in files if file.format != "folder"), None)
    if first is not None:
        seen = named(sample(first))
        lines += said_of_form(seen)
        text, label = elsewhere["text_column"], elsewhere["label_column"]
        if text not in seen.columns and len(seen.columns) == 1:
            text = seen.columns[0]
            lines.append(f"source: {first.name}: the text is column {text!r}, the only one")
        elif text not in seen.columns:
            columns = {name: looked_at(name, values) for name, values in seen.values.items() if name != label}
            text = column_of(seen, columns, "text", first.source.label_column, lines)
        ignored = [
            name for name in dict.fromkeys((label, first.splits.column)) if name in seen.columns and name != text
        ]
        if ignored:
            what = "no labels and no splits are read from source.unlabelled_path"
            lines.append(f"source: {first.name}: ignored: {listed(ignored)}; {what}")
        chosen |= {"columns": seen.file.source.columns, "text_column": text}
    source = {key: chosen[key] for key in ("columns", *DEFAULTS)}
    return [
        replace(file, source=replace(file.source, **source), splits=replace(file.splits, column=None)) for file in files
    ]


def is_plain(seen: Sample) -> bool:
    """Whether the names of the columns settle everything, so that no value has to be looked at."""
    given = all(getattr(seen.file.source, key) != AUTO or name in seen.columns for key, name in DEFAULTS.items())
    splitting = seen.file.splits.column == AUTO and any(name.casefold() in SPLIT_NAMES for name in seen.columns)
    return given and not splitting


def said_of_form(seen: Sample) -> list[str]:
    """How the bytes of a file are read, if that is not what its name tells."""
    file = seen.file
    said = file.form.in_words(file.expected, seen.first) if file.form else ""
    lines = [f"source: {file.name}: {said}"] if said else []
    if seen.columns and list(seen.columns) == made_up(len(seen.columns)) == file.source.columns:
        lines.append(f"source: {file.name}: there is no header line; columns are called {', '.join(seen.columns)}")
    return lines


def made_up(number: int) -> list[str]:
    """Names for columns that have none."""
    return [f"column_{place}" for place in range(1, number + 1)]


def named(seen: Sample) -> Sample:
    """A CSV file whose first line is a row gets names for its columns."""
    source = seen.file.source
    configured = {source.text_column, source.label_column, seen.file.splits.column, seen.file.splits.group_column}
    known = {"text", "label", *configured, *source.where} - {AUTO, None}
    if seen.file.format != "csv" or source.columns or known & set(seen.columns) or not begins_with_row(seen):
        return seen
    names = made_up(len(seen.columns))
    file = replace(seen.file, source=replace(source, columns=names))
    values = {new: [old, *seen.values[old]] for new, old in zip(names, seen.columns, strict=True)}
    return replace(seen, file=file, columns=names, load=lambda: values)


def begins_with_row(seen: Sample) -> bool:
    """Whether the names of the columns are a row: a sentence above sentences, and above few values one of them."""
    if len(set(seen.columns)) < len(seen.columns):
        return False
    columns = [looked_at(name, values) for name, values in seen.values.items()]
    labels = [one.name for one in columns if one.repeats_like_label]
    texts = [one.name for one in columns if one.reads_like_text and one.name not in labels]
    sentences = [name for name in texts if len(name.split()) >= 4 or len(name) >= 40]
    are_values = all(name in seen.values[name] for name in labels)
    return bool(sentences) and are_values and (bool(labels) or seen.file.is_unlabelled)


def column_of(seen: Sample, columns: dict[str, Column], what: str, other: str, lines: list[str]) -> str:
    """The column of the ``text`` or the ``label``; the lines to print are added to ``lines``.

    ``other`` is the column of the other one. Raises ``DataError`` where several may be it, or none.
    """
    source, name, key = seen.file.source, seen.file.name, f"{what}_column"
    given: str = getattr(source, key)
    if given != AUTO or what in seen.columns:
        return what if given == AUTO else given
    others = [column for column in columns.values() if column.name not in taken(seen, other)]
    if what == "label" and source.missing_label != "error":  # then a label may be there for a few rows only
        others = [looked_at(one.name, [value for value in seen.values[one.name] if spelling(value)]) for one in others]
    found = candidates(others, what)
    found = same_classes(seen, found) if what == "label" else found
    if len(found) > 1:
        some = "; ".join(f"{column.name!r} ({listed(column.few)}, …)" for column in found)
        raise DataError(f"{name}: which column is the {what}? It could be {some}; set source.{key}")
    if not found:
        expected = "sentences" if what == "text" else "few values that repeat"
        raise DataError(
            f"{name}: has no column {what!r}, and none that looks like it ({expected}); it has "
            f"{listed(seen.columns)}; set source.{key}"
        )
    lines.append(f"source: {name}: the {what} is column {found[0].name!r} (source.{key})")
    return found[0].name


def taken(seen: Sample, other: str) -> set[str | None]:
    """Columns that hold something else already."""
    splits = seen.file.splits
    return {other, splits.column, splits.group_column, *seen.file.source.where}


def same_classes(seen: Sample, found: list[Column]) -> list[Column]:
    """Of columns that say the same in other words, such as ``label_id`` and ``label_name``, one: that of words."""
    lists = [[str(value) for value in seen.values[column.name]] for column in found]
    pairs = set(zip(*lists, strict=True))
    if len(found) < 2 or len(pairs) < 2 or any(len(set(values)) != len(pairs) for values in lists):
        return found
    return [next((column for column in found if column.is_text), found[0])]


def split_of(seen: Sample, text: str, label: str, lines: list[str]) -> str | None:
    """The column of splits, if there is one that can be used without a doubt; it is said in ``lines``."""
    file = seen.file
    if file.splits.column != AUTO:
        return file.splits.column
    used = taken(seen, text) | {label}
    names = [name for name in seen.columns if name.casefold() in SPLIT_NAMES and name not in used]
    if file.split is not None or len(names) != 1 or label not in seen.values or names[0] not in seen.values:
        return None
    classes: dict[str | None, set[str]] = {}
    for value, its in zip(seen.values[names[0]], seen.values[label], strict=True):
        classes.setdefault(file.spellings.get(spelling(value)), set()).add(str(its))
    judged = list(classes) if file.source.missing_label == "error" else [TRAIN]  # others may have rows without a label
    if None in classes or TRAIN not in classes or any(len(classes[name]) < 2 for name in judged):
        return None
    which = f"column {names[0]!r} names each row's split ({', '.join(filter(None, classes))})"
    lines.append(f"splits: {file.name}: {which}; --splits.column null cuts splits by chance instead")
    return names[0]


def hints(files: Iterable[File], validation_is_cut: bool) -> Iterator[str]:
    """The lines to print about what nothing uses in the first file with labels."""
    first = next((file for file in files if not file.is_unlabelled and file.format != "folder"), None)
    if first is not None:
        yield from (f"hint: {first.name}: {what}" for what in unused_columns(sample(first), validation_is_cut))


def unused_columns(seen: Sample, validation_is_cut: bool) -> Iterator[str]:
    """Columns of splits or groups that nothing uses, and cells of the label that look like lists."""
    file, label = seen.file, seen.file.source.label_column
    names = sorted({as_found(value) or "" for value in seen.values.get(label or "", [])})
    if file.source.labels == AUTO and is_list(names):
        some = next(name for name in names if re.search("[,;|]", name))
        yield (
            f"column {label!r} looks like several labels in one cell ({some[:60]!r}); each combination is a class of "
            "its own: keep one label a row, or say in source.labels what each combination means"
        )
    others = [name for name in seen.columns if name not in file.wanted]
    unused = next((name for name in others if name.casefold() in SPLIT_NAMES), None)
    if unused is not None and file.split is None and file.splits.column is None:
        yield f"column {unused!r} is not used: rows of all its splits are mixed; set splits.column {unused}"
    for name in filter(GROUP_NAMES.fullmatch, others if validation_is_cut and not file.splits.group_column else ()):
        column = looked_at(name, seen.values.get(name, []))
        if 1 < column.distinct < column.filled:
            what = f"looks like a group (in {column.filled:,} rows {column.distinct:,} values)"
            why = "splits are cut without it, so validation may flatter"
            yield f"column {name!r} {what}; {why}: see splits.group_column"
            return
