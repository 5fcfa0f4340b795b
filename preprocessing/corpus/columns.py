# SPDX-License-Identifier: Apache-2.0
"""Which columns of a file hold text, label and splits where nobody has named them, and hints on columns left unused.

A column called ``text`` or ``label`` is it. Else columns are judged by some of their values; of those that would do,
the ones with a usual name go before the rest, and names of other things (titles, ids, dates) come last. If more than
one is left, or none, ``DataError`` names them and the key. What is found is said in lines that begin with ``source:``
or ``splits:``; a source whose columns are ``text`` and ``label`` and whose form is the expected one is read without a
word. Lines that begin with ``hint:`` name columns of splits or groups that nothing uses, and labels that are lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPELLINGS, TRAIN, UNLABELLED_SPELLINGS
from preprocessing.base.untrusted import listed
from preprocessing.config import EMBEDDED, PreprocessConfig, SourceConfig, SplitConfig
from preprocessing.corpus.sources import File
from preprocessing.corpus.tables import Sample, sample
from preprocessing.labels import AUTO, MAX_CLASSES, NUMBER, as_found, is_list, spelling, whole

TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
LABEL_NAME = re.compile(
    r"(.+_)?(label|class|target|sentiment|category|categories|stars?|rating|polarity|emotion|intent|topic|genre|stance|"
    r"toxic|spam|gold|y)s?(_(id|name|text|index|label))?|department|score|v1"
)
OTHER_TEXT = re.compile(r"(.+_)?(title|headline|subject|summary|name|author|user|url|link|path|file)s?(_.+)?")
"""Columns that may read like texts and rarely are what is classified."""
OTHER_LABEL = re.compile(r"(.+_)?(lang|language|author|writer|speaker|source|country|region|year|brand|type|kind)s?|")
"""Columns that may have few values and are the label only where no other column could be."""
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
    words: float
    """Words per value."""
    letters: float
    """Letters of scripts without spaces per value."""
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
        """Whether the values are sentences, and different from row to row."""
        long = self.words >= WORDS or self.letters >= LETTERS
        return self.is_text and self.is_full and long and self.distinct > max(1, self.filled // 5)

    @property
    def repeats_like_label(self) -> bool:
        """Whether there are few different values, each of them short."""
        named = LABEL_NAME.fullmatch(self.key) is not None
        if not named and NO_LABEL.fullmatch(self.key):
            return False
        most = min(MAX_CLASSES, self.filled - 1) if named else min(MANY_CLASSES, self.filled // 2)
        few = (1 if named else 2) <= self.distinct <= most and self.longest <= 100
        return few and self.is_full and (named or not self.is_fractional)


def looked_at(name: str, values: Sequence[Any]) -> Column:
    """Judge a column by some of its values."""
    there = [value for value in values if value is not None and value == value and value != ""]
    plain = [value for value in there if isinstance(value, (str, bool, int, float)) or not hasattr(value, "__len__")]
    texts = [whole(as_found(value) or "") for value in plain]
    count = max(len(texts), 1)
    number = [NUMBER.fullmatch(text.strip()) is not None for text in texts]
    other = [DATE.fullmatch(text) is not None or "://" in text[:12] for text in texts]
    is_text = (
        len(plain) == len(there)
        and all(isinstance(value, str) for value in plain)
        and 2 * sum(map(any, zip(number, other, strict=True))) < count
    )
    seen = dict.fromkeys(texts)
    return Column(
        name=name,
        filled=len(texts),
        is_full=0 < len(values) <= 2 * len(there),
        distinct=len(seen) if len(plain) == len(there) else 0,
        few=tuple(list(seen)[:4]),
        words=sum(len(text.split()) for text in texts) / count,
        letters=sum(len(WIDE.findall(text[:200])) for text in texts) / count,
        longest=max(map(len, texts), default=0),
        is_text=bool(texts) and is_text,
        is_fractional=bool(texts) and all(number) and any("." in text or "e" in text.casefold() for text in texts),
    )


def candidates(columns: Sequence[Column], what: str) -> list[Column]:
    """The columns that may hold the ``text`` or the ``label``: one, or those among which the user must choose."""
    for key in ("name", "key"):
        if exact := [column for column in columns if getattr(column, key) == what]:
            return exact
    if what == "label":
        return best_of([column for column in columns if column.repeats_like_label], LABEL_NAME, OTHER_LABEL)
    short = [one for one in columns if one.is_text and one.is_full and one.distinct > max(2, one.filled // 4)]
    reading = [column for column in columns if column.reads_like_text]
    return best_of(reading, TEXT_NAME, OTHER_TEXT) or best_of(short, TEXT_NAME, OTHER_TEXT)


def best_of(columns: Sequence[Column], usual: re.Pattern[str], other: re.Pattern[str]) -> list[Column]:
    """Those with a usual name; if there are none, those whose name tells nothing; and if there are none, the rest."""
    tiers: list[list[Column]] = [[], [], []]
    for column in columns:
        tiers[0 if usual.fullmatch(column.key) else 2 if other.fullmatch(column.key) else 1].append(column)
    return next((tier for tier in tiers if tier), [])


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
    names = {key: chosen[key] for key in DEFAULTS if getattr(source, key) == AUTO}
    if source.labels == AUTO:
        names["labels"] = chosen.get("labels", AUTO)
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
    found = of_labelled([file for file in files if not file.is_unlabelled])
    without = [file for file in files if file.is_unlabelled]
    if not without:
        return found
    others, lines = of_unlabelled(without, found.chosen)
    return replace(found, files=found.files + others, lines=found.lines + lines)


def of_labelled(files: Sequence[File]) -> Found:
    """``resolved`` for files that have labels."""
    first = files[0]
    seen = None if first.name == EMBEDDED or first.format == "folder" else named(sample(first))
    lines = said_of_form(seen) if seen else []
    if seen is None or is_plain(seen) or not any(seen.values.values()):  # if no rows are wrong, the job says so
        there = seen.columns if seen else []
        others = (name for name in dict.fromkeys(there) if name not in DEFAULTS.values())
        # where there are no rows, any column stands for a default that is not there: the lack of rows is what is said
        chosen: dict[str, Any] = {k: name if name in there else next(others, name) for k, name in DEFAULTS.items()}
        chosen |= {"columns": first.source.columns, "column": None, "labels": first.source.labels}
    else:
        columns = {name: looked_at(name, values) for name, values in seen.values.items()}
        text = column_of(seen, columns, "text", first.source.label_column, lines)
        label = column_of(seen, columns, "label", text, lines)
        chosen = {"text_column": text, "label_column": label, "column": split_of(seen, text, label, lines)}
        chosen["columns"] = seen.file.source.columns
    return Found([applied_to(file, chosen) for file in files], chosen, lines)


def of_unlabelled(files: Sequence[File], elsewhere: dict[str, Any]) -> tuple[list[File], list[str]]:
    """Files of ``source.unlabelled_path`` that know their text column, and the lines to print about them.

    ``elsewhere`` is what was chosen for files with labels. Their text column is taken if it is here too, else the only
    column that there is; their label is not read.
    """
    first = next((file for file in files if file.format != "folder"), None)
    if first is None:
        chosen = {**DEFAULTS, "columns": files[0].source.columns, "column": None}
        return [applied_to(file, chosen) for file in files], []
    if first.format == "csv" and first.source.columns:  # which may be those of files with labels alone
        alone = sample(replace(first, source=replace(first.source, columns=[])))
        if len(alone.columns) != len(first.source.columns):
            first, files = alone.file, [replace(file, source=alone.file.source) for file in files]
    seen = named(sample(first))
    lines, text, label = said_of_form(seen), elsewhere["text_column"], elsewhere["label_column"]
    if text not in seen.columns and len(seen.columns) != 1 and any(seen.values.values()):
        columns = {name: looked_at(name, values) for name, values in seen.values.items() if name != label}
        text = column_of(seen, columns, "text", first.source.label_column, lines)
    elif text not in seen.columns:  # if there is no row, the job says so
        text = next(iter(seen.columns), text)
        lines.append(f"source: {first.name}: the text is column {text!r}, the only one")
    ignored = [name for name in dict.fromkeys((label, first.splits.column)) if name in seen.columns and name != text]
    if ignored:
        which = f"column{'s' if len(ignored) > 1 else ''} {' and '.join(map(repr, ignored))}"
        what = "no labels and no splits are read from source.unlabelled_path"
        lines.append(f"source: {first.name}: {which} {'are' if len(ignored) > 1 else 'is'} ignored: {what}")
    source = {"columns": seen.file.source.columns, "text_column": text, "label_column": label}
    splits = replace(first.splits, column=None)
    return [replace(file, source=replace(file.source, **source), splits=splits) for file in files], lines


def is_plain(seen: Sample) -> bool:
    """Whether the names of the columns settle everything, so that no value has to be looked at."""
    given = all(getattr(seen.file.source, key) != AUTO or name in seen.columns for key, name in DEFAULTS.items())
    splitting = seen.file.splits.column == AUTO and any(name.casefold() in SPLIT_NAMES for name in seen.columns)
    return given and not splitting


def said_of_form(seen: Sample) -> list[str]:
    """How the bytes of a file are read, if that is not what its name tells."""
    file = seen.file
    said = file.form.in_words(file.expected, seen.first) if file.form else []
    if seen.columns and list(seen.columns) == made_up(len(seen.columns)) == file.source.columns:
        said.append(f"there is no header line; columns are called {', '.join(seen.columns)}")
    return [f"source: {file.name}: {', '.join(said)}"] if said else []


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
    sentences = labels = 0
    for name, values in seen.values.items():
        column = looked_at(name, values)
        if column.reads_like_text and not column.repeats_like_label:
            sentences += len(name.split()) >= 4 or len(name) >= 40
        elif column.repeats_like_label:
            numbers = all(NUMBER.fullmatch(value) for value in (*filter(None, values), name))
            if name not in values and not numbers:
                return False
            labels += 1
    return sentences > 0 and (labels > 0 or seen.file.is_unlabelled)


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
        some = "; ".join(f"{column.name!r} ({', '.join(map(shortened, column.few))}, …)" for column in found)
        raise DataError(f"{name}: which column is the {what}? It could be {some}; set source.{key}")
    if not found:
        expected = "sentences" if what == "text" else "few values that repeat"
        raise DataError(
            f"{name}: has no column {what!r}, and none that looks like it ({expected}); it has "
            f"{listed(seen.columns)}; set source.{key}"
        )
    chosen = columns[found[0].name]
    if what == "label":
        more = f", {chosen.distinct} different values in {chosen.filled:,} rows"
    else:
        also = [column.name for column in others if column.reads_like_text and column.name != chosen.name]
        more = f"; {', '.join(map(repr, also))} read{'s' if len(also) == 1 else ''} like text too" if also else ""
    lines.append(f"source: {name}: the {what} is column {chosen.name!r}{more} (source.{key})")
    return chosen.name


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


def shortened(value: str) -> str:
    """A value, or its beginning."""
    return value if len(value) <= 24 else f"{value[:23]}…"


def split_of(seen: Sample, text: str, label: str, lines: list[str]) -> str | None:
    """The column of splits, if there is one that can be used without a doubt; it is said in ``lines``."""
    file = seen.file
    if file.splits.column != AUTO:
        return file.splits.column
    used = taken(seen, text) | {label}
    names = [name for name in seen.columns if name.casefold() in SPLIT_NAMES and name not in used]
    if file.split is not None or len(names) != 1 or label not in seen.values or names[0] not in seen.values:
        return None
    strict = file.source.missing_label == "error"
    known: dict[str | None, str] = dict(SPELLINGS.items())
    known |= {} if strict else UNLABELLED_SPELLINGS
    classes: dict[str | None, set[str]] = {}
    for value, its in zip(seen.values[names[0]], seen.values[label], strict=True):
        classes.setdefault(known.get(spelling(value)), set()).update([str(its)] if strict or spelling(its) else [])
    few = any(len(found) < 2 for name, found in classes.items() if strict or name == TRAIN)
    if None in classes or TRAIN not in classes or few:
        return None
    which = f"column {names[0]!r} names each row's split ({', '.join(filter(None, classes))})"
    lines.append(f"splits: {file.name}: {which}; --splits.column null cuts splits by chance instead")
    return names[0]


def hints(files: Iterable[File], validation_is_cut: bool) -> Iterator[str]:
    """The lines to print for each file, in addition to those of ``resolved`` for the first."""
    for number, file in enumerate(files):
        said = file.form.in_words(file.expected) if file.form and number else []
        yield from [f"source: {file.name}: {', '.join(said)}"] if said else []
        if not file.is_unlabelled and file.format != "folder":
            yield from (f"hint: {file.name}: {what}" for what in unused_columns(sample(file), validation_is_cut))


def unused_columns(seen: Sample, validation_is_cut: bool) -> Iterator[str]:
    """Columns of splits or groups that nothing uses, and cells of the label that look like lists."""
    file = seen.file
    label = file.source.label_column
    if file.source.labels == AUTO and label in seen.columns:
        names = sorted({as_found(value) or "" for value in seen.values.get(label, [])})
        if is_list(names):
            some = next(name for name in names if re.search("[,;|]", name))
            yield (
                f"column {label!r} looks like several labels in one cell ({some[:60]!r}); each combination is a class "
                "of its own, and a text is given one of them: keep one label a row, or say in source.labels what each "
                "combination means"
            )
    others = [name for name in seen.columns if name not in file.wanted]
    unused = next((name for name in others if name.casefold() in SPLIT_NAMES), None)
    if unused is not None and file.split is None and file.splits.column is None:
        yield f"column {unused!r} is not used: rows of all its splits are mixed; set splits.column {unused}"
    if not validation_is_cut or file.splits.group_column:
        return
    for name in filter(GROUP_NAMES.fullmatch, others):
        values = [as_found(value) for value in seen.values.get(name, []) if value is not None]
        if 1 < len(set(values)) < len(values):
            what = f"looks like a group (in {len(values):,} rows {len(set(values)):,} values)"
            why = "splits are cut without it, so validation may flatter"
            yield f"column {name!r} {what}; {why}: see splits.group_column"
            return
