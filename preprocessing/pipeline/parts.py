# SPDX-License-Identifier: Apache-2.0
"""The first pass: each source of a corpus becomes parts of one schema (``preprocessing.sources.convert``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from padless.core import jobs
from padless.core.jobs import Workers
from preprocessing.config import SourceConfig
from preprocessing.labels import LabelType, common_type, label_set_members, order_classes, split_label_set
from preprocessing.sources.convert import Converted, ConvertedPart, check_number, convert, convert_parts
from preprocessing.sources.sources import File, identity_of

SOURCES = "sources"
"""The folder of converted sources and their markers."""
VERSION = 10
"""Format of stored parts; parts of another version are made again."""
NOT_DECIDING = {
    "source": {"path", "validation_path", "test_path", "unlabelled_path"},
    "splits": {"validation", "test", "folds"},
}
"""Keys that do not change what is read of a source."""


@dataclass(frozen=True)
class ConvertedFile(jobs.Task[Converted]):
    """One source, to be converted."""

    file: File
    keep_columns: bool

    result: ClassVar[type] = Converted

    @classmethod
    def from_file(cls, work: Path, file: File, keep_columns: bool = False) -> ConvertedFile:
        """A source as a task; its key is the hash of the file's identity and everything that decides its rows."""
        content = asdict(file)
        for section, names in NOT_DECIDING.items():
            content[section] = {name: value for name, value in content[section].items() if name not in names}
        key, folder = hash_of((VERSION, content, identity_of(file), keep_columns)), work / SOURCES
        return cls(key, folder, folder / f"{key[:24]}.json", 0, file, keep_columns)

    def run(self) -> tuple[Converted, dict[str, str]]:
        """Write the rows as parts."""
        converted = convert(self.file, self.root, self.prefix, keep_columns=self.keep_columns)
        return converted, hashes_of(converted)

    @property
    def prefix(self) -> str:
        """Begin of the names of its parts."""
        return f"{self.key[:24]}-"

    def find_parts(self) -> Iterator[ConvertedPart]:
        """Yield each part as soon as it is written; those of an earlier run are not written again."""
        converted = jobs.read_result(self)
        if converted is None:
            converted = yield from convert_parts(self.file, self.root, self.prefix, keep_columns=self.keep_columns)
            jobs.write_marker(self, converted, hashes_of(converted))
        else:
            yield from converted.parts


def hash_of(content: object) -> str:
    """The sha256 of what decides a part."""
    return hashlib.sha256(repr(content).encode()).hexdigest()


def hashes_of(converted: Converted) -> dict[str, str]:
    """The sha256 of each part by its name."""
    return {part.path: part.sha256 for part in converted.parts}


@dataclass(frozen=True)
class Source:
    """A converted source of the corpus."""

    file: File
    converted: Converted
    offset: int
    """Rows of the corpus before it."""
    folder: Path
    """Of its parts."""


def convert_all(files: Sequence[File], workers: Workers, work: Path, *, keep_columns: bool = False) -> list[Source]:
    """Every file of the source as parts, in order. Finished files are not read again."""
    tasks = [ConvertedFile.from_file(work, file, keep_columns) for file in files]
    task_by_key = {task.key: task for task in tasks}
    results = jobs.run_tasks("read", work / SOURCES, task_by_key.values(), workers)
    converted_by_key = {task.key: result for task, result in results}
    sources, classes, offset = list[Source](), set[str](), 0
    for task in tasks:
        converted = converted_by_key[task.key]
        sources.append(Source(task.file, converted, offset, task.root))
        offset += converted.rows_read
        classes.update(converted.classes)
        check_number(classes, task.file)
    return sources


@dataclass(frozen=True)
class Classes:
    """The classes of a corpus."""

    names: list[str]
    """In the order of their numbers."""
    numbers: dict[str, int]
    """Label as written in a part -> number of its class."""
    type: LabelType
    """Type of the label column."""
    label_sets: list[list[int]] | None = None
    """With several labels to a text: the classes of each label set; ``numbers`` are then those of the sets."""

    @classmethod
    def merge(cls, config: SourceConfig, sources: Sequence[Source]) -> Classes:
        """Merge the classes of all parts, and with several labels to a text their label sets."""
        label_map, converted = config.label_map, [source.converted for source in sources]
        values = sorted({value for source in converted for value in source.classes})
        value_names = [split_label_set(value) if config.has_label_sets else [value] for value in values]
        if label_map is None:
            names, numbers = order_classes({*chain(*value_names)})
            kind = common_type((kind for source in converted for kind in source.label_types), names)
        else:
            names, kind = label_map.names, "text"
            numbers = {name: number for number, name in enumerate(names)}
        if not config.has_label_sets:
            return cls(names, numbers, kind)
        classes = [tuple(sorted({numbers[name] for name in set_names})) for set_names in value_names]
        label_sets = sorted({*classes})
        number_by_set = {label_set: number for number, label_set in enumerate(label_sets)}
        set_numbers = map(number_by_set.__getitem__, classes)
        return cls(names, dict(zip(values, set_numbers, strict=True)), kind, [*map(list, label_sets)])

    @cached_property
    def members(self) -> np.ndarray:
        """int64 ``[labels, classes]``: 1 for the classes of each label that a row may have."""
        if self.label_sets is None:
            return np.eye(len(self.names), dtype=np.int64)
        return label_set_members(self.label_sets, len(self.names)).astype(np.int64)
