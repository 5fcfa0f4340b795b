# SPDX-License-Identifier: Apache-2.0
"""Every option of ``padless prepare`` and of ``configs/preprocess/*.yaml``."""

from __future__ import annotations

import codecs
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta

from padless.core.errors import ConfigError, require
from padless.core.jobs import ExecutorConfig
from padless.core.schema import AtLeast0, AtLeast1, Chance, LocalPath, Name
from padless.core.split_names import ALL_SPLITS, TEST, TRAIN, UNLABELLED, VALIDATION
from preprocessing.labels import AUTO, LabelMap
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import VocabularyConfig

Policy = Literal["empty", "contradictions", "leaks", "duplicates"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Format = Literal["auto", "csv", "jsonl", "parquet", "folder"]
EMBEDDED = "movie-reviews"
MOST_PART_MB = 4096
"""A part is held in memory."""
Names = Annotated[list[Name], Meta(min_length=1, description="of at least one")]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How texts and labels are read: manifests and bundles have them, so that new files are read like the corpus."""

    text_column: Name | Names = AUTO
    """Column that holds the text; auto: text, or the one that looks like it. Several columns, as in [title, body],
    become one text, with the word xxsep between."""
    label_column: Name = AUTO
    """Column that holds the label; auto: label, or the one that looks like it."""
    labels: dict[str, list[Any]] | Literal["auto"] = AUTO
    """auto: each value found is a class, named as it is written; sorted, numbers as numbers. Or class name -> its
    values, as they are written; the classes are numbered in the order of the names."""
    labels_separator: Name | None = AUTO
    """Between the labels of a text that has several, as in joy;surprise; an empty field is a text without any. list:
    the column holds lists (JSON, Parquet, CSV of pandas). auto: one is taken if parts of the cells repeat; null: one
    label a text."""
    encoding: str = AUTO
    """CSV, JSON lines and text files: utf-8, latin-1, utf-16, cp1251, …; auto: UTF-8, or UTF-16 after
    its byte order mark."""
    delimiter: Name | None = None
    """CSV: between fields; none: a comma, in .tsv files a tab. If lines differ in their fields, another that fits."""
    quote: str = '"'
    """CSV: around fields with delimiters or line ends; doubled inside. An empty string turns quoting off."""
    columns: list[str] = field(default_factory=list)
    """CSV: the names of the columns, for files without a header line."""

    def __post_init__(self) -> None:
        """Check values, and give encoding and delimiter their final form."""
        delimiter = "\t" if self.delimiter in ("\\t", "tab") else self.delimiter
        encoding = self.encoding
        if encoding != AUTO:
            try:
                "".encode(encoding)
            except (LookupError, UnicodeError):  # of the codec called undefined
                problem = f"{encoding!r} is not known; utf-8, latin-1, utf-16, cp1251 are"
                raise ConfigError(f"source.encoding: {problem}") from None
            encoding = codecs.lookup(encoding).name
        vars(self).update(encoding=encoding, delimiter=delimiter)
        signs = [sign for sign in (self.delimiter or ",", self.quote) if sign]
        are_characters = all(len(sign) == 1 and sign.isascii() and sign not in "\r\n" for sign in signs)
        is_valid = are_characters and len(set(signs)) == len(signs)
        require(is_valid, "source.delimiter, quote", signs, "one ASCII character for each, different ones")
        require(len(set(self.columns)) == len(self.columns), "source.columns", self.columns, "each name once")
        labels, separator = self.label_map, self.labels_separator or ""
        for value in labels.name_by_value if labels and self.has_label_sets else ():
            if separator.casefold() in value:
                problem = f"{separator!r} is in the value {value!r} of source.labels, so it cannot separate labels"
                raise ConfigError(f"source.labels_separator: {problem}; separate them by another one, or set null")

    @property
    def has_label_sets(self) -> bool:
        """Whether a text may have several labels, or none; known when the columns are."""
        return self.labels_separator not in (AUTO, None)

    @property
    def text_columns(self) -> list[str]:
        """The columns of which the text is made."""
        return [self.text_column] if isinstance(self.text_column, str) else self.text_column

    @cached_property
    def label_map(self) -> LabelMap | None:
        """The map of ``labels``; None for ``auto``."""
        return None if isinstance(self.labels, str) else LabelMap(self.labels)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(ReadingOptions):
    """The labelled texts."""

    path: Name | list[Name] = field(default_factory=list)
    """Files, globs or a folder, local or remote (s3://, gs://, hf://…); movie-reviews is the corpus in that package."""
    validation_path: Name | list[Name] = field(default_factory=list)
    """Files of the validation split; none: it is cut from the training rows."""
    test_path: Name | list[Name] = field(default_factory=list)
    """Files of the test split; none: it is cut from the training rows."""
    unlabelled_path: Name | list[Name] = field(default_factory=list)
    """Files, globs or a folder of texts without labels: the split unlabelled, which word vectors and language models
    learn from too. A label column is not needed, and ignored. Of a folder, every .txt file below it."""
    format: Format = "auto"
    """auto: from the file name; folder: one sub-folder per label, perhaps below train/ and test/."""
    missing_label: Literal["error", "unlabelled", "drop"] = "error"
    """Rows whose label is an empty field, null or absent: refused, put into the split unlabelled (those of validation
    and test are refused), or left out and counted."""
    where: dict[str, str] = field(default_factory=dict)
    """Column -> value: rows with another value in that column are left out and counted."""
    part_mb: Annotated[float, Meta(gt=0, le=MOST_PART_MB)] = 8.0
    """Megabytes of text per unit of work; changes speed and memory, never the result."""

    def __post_init__(self) -> None:
        """Check values, and make lists of the addresses."""
        super().__post_init__()
        for name in ("path", "validation_path", "test_path", "unlabelled_path"):
            value = getattr(self, name)
            vars(self)[name] = [value] if isinstance(value, str) else list(value)

    def follow(self, trained: ReadingOptions) -> SourceConfig:
        """These options, and where they are defaults those of the corpus of a training. Labels are read unchanged; a
        text has several if one of the training corpus may have.
        """
        default, names = ReadingOptions(), [option.name for option in fields(ReadingOptions)]
        unset_names = [name for name in names if getattr(self, name) == getattr(default, name)]
        options = {name: getattr(trained, name) for name in unset_names}
        if options.get("labels_separator") == AUTO:
            options["labels_separator"] = None
        return replace(self, **{**options, "labels": AUTO})

    @property
    def addresses(self) -> list[tuple[str, str | None]]:
        """Every address with its split, or None."""
        addresses_by_split = {
            TRAIN if self.validation_path or self.test_path else None: self.path,
            VALIDATION: self.validation_path,
            TEST: self.test_path,
            UNLABELLED: self.unlabelled_path,
        }
        return [(address, split) for split, addresses in addresses_by_split.items() for address in addresses]

    @property
    def has_unlabelled(self) -> bool:
        """Whether there may be rows without labels."""
        return bool(self.unlabelled_path) or self.missing_label == UNLABELLED


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How rows are divided into train, validation and test."""

    validation: Chance = 0.1
    """Fraction of the rows for the validation split, unless the source names one."""
    test: Chance = 0.1
    """Fraction of the rows for the test split, unless the source names one."""
    column: Name | None = AUTO
    """Column that names each row's split: train, validation (or valid, val, dev) or test; a row with an empty cell is
    split as if there were no such column. auto: a column called split, if all its values are splits; null: none."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Split -> its other values in splits.column, as in {train: [tr, 0], test: [te]}."""
    group_column: Name | None = None
    """Column of groups (film, author, customer): splits are cut so that all rows of a group are in one split. Rows with
    an empty cell belong to no group."""
    time_column: Name | None = None
    """Column of dates (2024-12-31) or numbers: the rows with the last of them are the test split, those before it
    validation. Equal texts and groups go with their last row, rows with an empty cell to training."""
    folds: Annotated[int, Meta(ge=0, le=100)] = 0
    """For cross-validation: number of folds of the training and validation rows; groups and equal texts stay in one
    fold. train --folds all holds out each fold in turn. 0: none."""

    def __post_init__(self) -> None:
        """Check that training rows are left, and keys that need or exclude others."""
        total = self.validation + self.test
        require(self.folds != 1, "splits.folds", self.folds, "0 for none, or from 2 to 100")
        require(total < 1, "splits.validation + splits.test", total, "below 1, or nothing is left for training")
        if self.time_column is not None and self.folds:
            raise ConfigError("splits.folds: folds mix the times that splits.time_column keeps apart; leave one out")
        for split in self.names:
            require(split in ALL_SPLITS, "splits.names", split, f"the splits {', '.join(ALL_SPLITS)}")


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """The layout of rows on disk."""

    rows: AtLeast1 = 32768
    """Rows that are shuffled and written together; limits the memory of the second pass."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Which suspect rows are left out; the manifest counts them in any case."""

    drop: list[Policy] = field(default_factory=lambda: ["leaks"])
    """empty: texts without tokens, which are kept as one <unk> otherwise. contradictions: rows with the same tokens and
    different labels. duplicates: rows of one split with the same tokens, but the first. leaks: equal texts in two
    splits that the source names, from the one nearer to training, and unlabelled texts that are also in validation or
    test, or belong to one of their groups. []: none."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Build a dataset from labelled texts: read, clean, tokenize, split, write shards of ids."""

    RECIPES: ClassVar[str] = "preprocess"
    """The kind of recipes that ``--config`` finds by name."""
    SUBJECT = ("source.path",)

    output: LocalPath
    """Directory of the dataset."""
    overwrite: bool = False
    """Replace an existing dataset of another configuration, once the new one is complete."""
    quiet: bool = False
    """Print only errors and which rows are left out, no progress or notes."""
    seed: AtLeast0 = 0
    """Decides the splits and the order of the rows."""
    source: SourceConfig = SourceConfig()
    text: TextSpec = TextSpec()
    vocabulary: VocabularyConfig = VocabularyConfig()
    splits: SplitConfig = SplitConfig()
    shards: ShardConfig = ShardConfig()
    quality: QualityConfig = QualityConfig()
    executor: ExecutorConfig = ExecutorConfig()

    def __post_init__(self) -> None:
        """Check that the parts agree."""
        if self.executor.share and self.overwrite:
            raise ConfigError("executor.share: shares make a new dataset; name a new directory, without overwrite")

    def deciding(self) -> dict[str, Any]:
        """The part of the configuration that decides the bytes of the dataset, as JSON."""
        content = asdict(self)
        for key in ("output", "overwrite", "quiet", "executor"):
            del content[key]
        del content["source"]["part_mb"]  # it changes no bytes
        return json.loads(json.dumps(content))
