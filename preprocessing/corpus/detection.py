# SPDX-License-Identifier: Apache-2.0
"""A source as the user named it, with all that its first file tells: columns, splits, and how its bytes are read.

What is found is said in lines that begin with ``source:`` or ``splits:``. Where more than one column would do, or none,
``DataError`` names them and the key. A source whose columns are ``text`` and ``label`` and whose form is the expected
one is read without a word, as it always was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPELLINGS, TRAIN, UNLABELLED_SPELLINGS
from preprocessing.base.untrusted import listed
from preprocessing.config import EMBEDDED, PreprocessConfig, SourceConfig, SplitConfig
from preprocessing.corpus import forms
from preprocessing.corpus.columns import Column, label_candidates, looked_at, text_candidates
from preprocessing.corpus.sample import Sample, sample
from preprocessing.corpus.sources import File
from preprocessing.labels import AUTO, NUMBER, spelling

SPLIT_NAMES = ("split", "subset")
DEFAULTS = {"text_column": "text", "label_column": "label"}
"""Names of the columns of what has none, such as a folder, and of what has no rows."""


@dataclass(frozen=True)
class Found:
    """A source without anything that is still ``auto``."""

    files: list[File]
    chosen: dict[str, Any]
    """``text_column``, ``label_column``, ``columns`` and ``labels`` of the source and ``column`` of the splits."""
    lines: list[str]
    """What is to be said."""

    def applied(self, config: PreprocessConfig) -> PreprocessConfig:
        """The configuration with what was found in the place of ``auto``."""
        source, splits = settled(config.source, config.splits, self.chosen)
        return replace(config, source=source, splits=splits)


def resolved(files: Sequence[File]) -> Found:
    """Look into the first file, and into the first without labels, and settle what is ``auto`` for all of each kind.

    Raises ``DataError`` for a file that cannot be read, or in which text and label cannot be told.
    """
    labelled = [file for file in files if not file.is_unlabelled]
    found, without = of_labelled(labelled), [file for file in files if file.is_unlabelled]
    if not without:
        return found
    others, lines = of_unlabelled(without, found.chosen)
    return replace(found, files=found.files + others, lines=found.lines + lines)


def of_labelled(files: Sequence[File]) -> Found:
    """``resolved`` for files that have labels."""
    first = files[0]
    seen = None if first.name == EMBEDDED or first.format == "folder" else named(sample(first))
    if seen is None or is_plain(seen) or not any(seen.values.values()):  # if no rows are wrong, the job says so
        columns_there = seen.columns if seen else []
        chosen = {**there_or_any(columns_there), "columns": first.source.columns, "column": None}
        chosen["labels"] = first.source.labels
        return Found([applied_to(file, chosen) for file in files], chosen, said_of_form(seen) if seen else [])
    columns = {name: looked_at(name, values) for name, values in seen.values.items()}
    lines = said_of_form(seen)
    text, said = text_of(seen, columns)
    lines += said
    label, said = label_of(seen, columns, text)
    lines += said
    split, said = split_of(seen, text, label)
    lines += said
    chosen = {
        "columns": seen.file.source.columns,
        "text_column": text,
        "label_column": label,
        "column": split,
    }
    return Found([applied_to(file, chosen) for file in files], chosen, lines)


def of_unlabelled(files: Sequence[File], elsewhere: dict[str, Any]) -> tuple[list[File], list[str]]:
    """Files of ``source.unlabelled_path`` that know their text column, and what is to be said of them.

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
        text, said = text_of(seen, columns)
        lines += said
    elif text not in seen.columns:  # if there is no row, the job says so
        text = next(iter(seen.columns), text)
        lines.append(f"source: {first.name}: the text is column {text!r}, the only one")
    ignored = [name for name in dict.fromkeys((label, first.splits.column)) if name in seen.columns and name != text]
    if ignored:
        columns_of = f"column{'s' if len(ignored) > 1 else ''} {' and '.join(map(repr, ignored))}"
        what = "no labels and no splits are read from source.unlabelled_path"
        lines.append(f"source: {first.name}: {columns_of} {'are' if len(ignored) > 1 else 'is'} ignored: {what}")
    source = {"columns": seen.file.source.columns, "text_column": text, "label_column": label}
    splits = replace(first.splits, column=None)
    return [replace(file, source=replace(file.source, **source), splits=splits) for file in files], lines


def there_or_any(columns: Sequence[str]) -> dict[str, Any]:
    """The default columns; where there are no rows, others in their place, so that the lack of rows is what is said."""
    others = (name for name in dict.fromkeys(columns) if name not in DEFAULTS.values())
    return {key: name if name in columns else next(others, name) for key, name in DEFAULTS.items()}


def is_plain(seen: Sample) -> bool:
    """Whether the names of the columns settle everything, so that no value has to be looked at."""
    source, splits = seen.file.source, seen.file.splits
    given = [
        source.text_column != AUTO or "text" in seen.columns,
        source.label_column != AUTO or "label" in seen.columns,
    ]
    splitting = splits.column == AUTO and any(name.casefold() in SPLIT_NAMES for name in seen.columns)
    return all(given) and not splitting


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


def said_of_form(seen: Sample) -> list[str]:
    """How the bytes of a file are read, if that is not what its name tells."""
    file = seen.file
    said = forms.in_words(file.form, file.expected, seen.first) if file.form else []
    said += [f"there is no header line; columns are called {', '.join(seen.columns)}"] if has_made_up(seen) else []
    return [f"source: {file.name}: {', '.join(said)}"] if said else []


def has_made_up(seen: Sample) -> bool:
    """Whether the columns' names were made up here."""
    return bool(seen.columns) and list(seen.columns) == made_up(len(seen.columns)) == seen.file.source.columns


def made_up(number: int) -> list[str]:
    """Names for columns that have none."""
    return [f"column_{place}" for place in range(1, number + 1)]


def named(seen: Sample) -> Sample:
    """A CSV file whose first line is a row gets names for its columns."""
    source = seen.file.source
    asked = {source.text_column, source.label_column, seen.file.splits.column, seen.file.splits.group_column}
    known = {"text", "label", *asked, *source.where} - {AUTO, None}
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
            numbers = all(NUMBER.fullmatch(value) for value in values if value)
            labels += name in values or (numbers and NUMBER.fullmatch(name) is not None)
            if name not in values and not (numbers and NUMBER.fullmatch(name)):
                return False
    return sentences > 0 and (labels > 0 or seen.file.is_unlabelled)


def text_of(seen: Sample, columns: dict[str, Column]) -> tuple[str, list[str]]:
    """The column of the text, and what is to be said of it."""
    source = seen.file.source
    if source.text_column != AUTO:
        return source.text_column, []
    others = [column for name, column in columns.items() if name not in taken(seen, source.label_column)]
    found = text_candidates(others) if not source_has(seen, "text") else [columns_named(seen, columns, "text")]
    chosen = one_of(seen, found, "text", "source.text_column")
    if chosen == "text":
        return chosen, []
    also = [column.name for column in others if column.reads_like_text and column.name != chosen]
    more = f"; {', '.join(map(repr, also))} read{'s' if len(also) == 1 else ''} like text too" if also else ""
    return chosen, [f"source: {seen.file.name}: the text is column {chosen!r}{more} (source.text_column)"]


def label_of(seen: Sample, columns: dict[str, Column], text: str) -> tuple[str, list[str]]:
    """The column of the label, and what is to be said of it."""
    source = seen.file.source
    if source.label_column != AUTO:
        return source.label_column, []
    others = [column for name, column in columns.items() if name not in taken(seen, text)]
    if source.missing_label != "error":  # then a label may be there for a few rows only
        others = [looked_at(one.name, [value for value in seen.values[one.name] if is_label(value)]) for one in others]
    found = label_candidates(others) if not source_has(seen, "label") else [columns_named(seen, columns, "label")]
    chosen = one_of(seen, same_classes(seen, found), "label", "source.label_column")
    if chosen == "label":
        return chosen, []
    column = columns[chosen]
    values = f"{column.distinct} different values in {column.filled:,} rows"
    return chosen, [f"source: {seen.file.name}: the label is column {chosen!r}, {values} (source.label_column)"]


def is_label(value: Any) -> bool:
    """Whether a cell of the label's column is not empty."""
    return bool(spelling(value))


def taken(seen: Sample, other: str) -> set[str | None]:
    """Columns that hold something else already."""
    splits = seen.file.splits
    return {other, splits.column, splits.group_column, *seen.file.source.where}


def source_has(seen: Sample, name: str) -> bool:
    """Whether a file has a column, whatever it holds."""
    return name in seen.columns


def columns_named(seen: Sample, columns: dict[str, Column], name: str) -> Column:
    """What is known of a column, also of one that holds no plain values."""
    return columns.get(name) or looked_at(name, [])


def same_classes(seen: Sample, found: list[Column]) -> list[Column]:
    """Of columns that say the same in other words, such as ``label_id`` and ``label_name``, one: that of words."""
    if len(found) < 2:
        return found
    lists = [[str(value) for value in seen.values[column.name]] for column in found]
    pairs = {tuple(row) for row in zip(*lists, strict=True)}
    if any(len(set(values)) != len(pairs) for values in lists) or len(pairs) < 2:
        return found
    return [next((column for column in found if column.is_text), found[0])]


def one_of(seen: Sample, found: list[Column], what: str, key: str) -> str:
    """The only candidate. Raises ``DataError`` where there are several, or none."""
    if len(found) == 1:
        return found[0].name
    if found:
        some = "; ".join(f"{column.name!r} ({', '.join(shown(value) for value in column.few)}, …)" for column in found)
        raise DataError(f"{seen.file.name}: which column is the {what}? It could be {some}; set {key}")
    there = listed(seen.columns)
    expected = "sentences" if what == "text" else "few values that repeat"
    raise DataError(
        f"{seen.file.name}: has no column {what!r}, and none that looks like it ({expected}); it has {there}; set {key}"
    )


def shown(value: str) -> str:
    """A value, or its beginning."""
    return value if len(value) <= 24 else f"{value[:23]}…"


def split_of(seen: Sample, text: str, label: str) -> tuple[str | None, list[str]]:
    """The column of splits, if there is one that can be used without a doubt, and what is to be said of it."""
    file = seen.file
    if file.splits.column != AUTO:
        return file.splits.column, []
    names = [
        name for name in seen.columns if name.casefold() in SPLIT_NAMES and name not in taken(seen, text) | {label}
    ]
    if file.split is not None or len(names) != 1 or label not in seen.values or names[0] not in seen.values:
        return None, []
    known: dict[str | None, str] = dict(SPELLINGS.items())
    known |= UNLABELLED_SPELLINGS if file.source.missing_label != "error" else {}
    classes: dict[str | None, set[str]] = {}
    strict = file.source.missing_label == "error"
    for value, its in zip(seen.values[names[0]], seen.values[label], strict=True):
        classes.setdefault(known.get(spelling(value)), set()).update([str(its)] if strict or is_label(its) else [])
    few = [name for name, found in classes.items() if len(found) < 2 and (strict or name == TRAIN)]
    if None in classes or TRAIN not in classes or few:
        return None, []
    which = f"column {names[0]!r} names each row's split ({', '.join(filter(None, classes))})"
    return names[0], [f"splits: {file.name}: {which}; --splits.column null cuts splits by chance instead"]
