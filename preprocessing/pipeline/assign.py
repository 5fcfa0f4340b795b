# SPDX-License-Identifier: Apache-2.0
"""Assigns each row a split and a fold, or leaves it out: runs ``rules.sql`` in DuckDB, whose memory is
bounded for any number of rows.

Units of several rows are packed by ``preprocessing.pipeline.packing``, by row counts that queries return.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from padless.core import atomic, jobs
from padless.core.errors import DataError
from padless.core.split_names import (
    ALL_SPLITS,
    SPLITS,
    TEST,
    TRAIN,
    TRAIN_NUMBER,
    UNLABELLED,
    VALIDATION,
    VALIDATION_NUMBER,
    split_number,
)
from preprocessing.config import POLICIES, PreprocessConfig, SplitConfig
from preprocessing.pipeline import tokenize
from preprocessing.pipeline.packing import Units, assign_folds, assign_splits, join_nodes, target_label_rows
from preprocessing.pipeline.parts import Classes

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "200MB"
"""Of DuckDB, which writes to files beyond it."""
NUM_THREADS = 2
"""Of DuckDB: each needs its share of the memory."""
FULL_DISK = ("No space left", "max_temp_directory_size")
"""In errors of DuckDB, which leaves a tenth of the disk free."""
RESULT, ASSIGNED = "result.parquet", "assigned.bin"
"""The decisions on all rows, beside the parts: as DuckDB writes them, and a ``DECISION`` for each number of a row."""
DECISION = np.dtype([("split", np.int8), ("label", np.int32), ("fold", np.int16)])
SPILLED = "spilled"
"""The folder of what DuckDB writes beyond its limit; it removes it."""
MANY_CLASSES = 20
"""So many may have one or two rows each, as in a first trial."""


@dataclass(frozen=True)
class Assignment(jobs.Task[dict[str, Any]]):
    """The assignment of all rows of a corpus to splits and folds, as a task."""

    config: PreprocessConfig
    classes: Classes
    num_parts: int
    source_name: str
    """The labelled files, for messages."""

    result: ClassVar[Any] = dict[str, Any]

    def run(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Store the assignment of every row.

        Returns what was observed: ``report`` for the manifest, ``labels`` (rows of each split and class), ``named``
        (rows of each split that the source names) and ``labelled`` (rows with a label). Raises ``DataError`` for an
        unusable split.
        """
        atomic.sweep(self.root / SPILLED)
        spilled = atomic.temporary_path(Path(SPILLED))  # another share may make the same part
        with literal_path(self.root) as root, open_database(root / spilled) as database:
            facts = [str(tokenize.part_path(root, number, "facts")) for number in range(self.num_parts)]
            assigner = Assigner(database, self.config, self.classes, self.source_name)
            with atomic.replacing(self.root / RESULT, lasting=False) as path:
                observed = assigner.run(facts, self.size, root / path.name)
        with atomic.replacing(self.root / ASSIGNED, lasting=False) as path:
            order_decisions(self.root / RESULT, path)
        return observed, {ASSIGNED: atomic.sha256_file(self.root / ASSIGNED)}


@dataclass(frozen=True)
class AssignedParts:
    """The parts of a corpus with the assignment of every row, on disk for the workers."""

    folder: Path
    rows_per_part: list[int]
    num_labelled: int
    """Rows with a label, also those that are left out."""
    hash: str
    """Over all parts and assignments."""

    @property
    def num_rows(self) -> int:
        """All rows, also those that are left out."""
        return sum(self.rows_per_part)

    def load(self, number: int) -> dict[str, np.ndarray]:
        """``split`` (int8), ``label`` (int32) and ``fold`` (int16) of the rows of one part, in the order of
        ``tokenize.load_part``.
        """
        row = tokenize.load_part(self.folder, number)["row"]
        decisions = np.memmap(self.folder / ASSIGNED, DECISION, "r")[row]
        return {name: np.ascontiguousarray(decisions[name]) for name in DECISION.fields or ()}


def order_decisions(result: Path, path: Path) -> None:
    """Write the decisions of ``RESULT`` in the order of rows, which takes DuckDB far longer."""
    with pq.ParquetFile(result) as table:
        last_row = max(int(batch["row"].to_numpy().max()) for batch in table.iter_batches(columns=["row"]))
        path.write_bytes(np.zeros(last_row + 1, DECISION).data)  # so a full disk is noticed here
        for batch in table.iter_batches(use_threads=False):
            row = batch["row"].to_numpy()
            first, last = int(row.min()), int(row.max())
            decisions = np.memmap(path, DECISION, "r+", first * DECISION.itemsize, last - first + 1)
            for name in DECISION.fields or ():
                decisions[name][row - first] = batch[name].to_numpy()


@functools.cache
def read_rules() -> dict[str, str]:
    """The statements of ``rules.sql`` by their names."""
    text = Path(__file__).with_name("rules.sql").read_text(encoding="utf-8")
    _, *sections = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(sections[::2], sections[1::2], strict=True))


DESCRIPTORS = "/proc/self/fd"
"""The folder in which Linux names the open files of a process."""


@contextmanager
def literal_path(folder: Path) -> Iterator[Path]:
    """Another path of a folder, without the characters by which DuckDB matches names or divides a path; where the
    system has none, the folder itself.
    """
    if not os.path.isdir(DESCRIPTORS):
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield Path(f"{DESCRIPTORS}/{descriptor}")
    finally:
        os.close(descriptor)


@contextmanager
def open_database(spilled: Path) -> Iterator[DuckDBPyConnection]:
    """A database in memory, and beyond its limit in a new folder. A full disk is an ``OSError``."""
    import duckdb

    settings: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "threads": NUM_THREADS, "temp_directory": str(spilled)}
    try:
        with duckdb.connect(config=settings) as database:
            yield database
    except duckdb.Error as error:
        if any(words in str(error) for words in FULL_DISK):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise


@dataclass(frozen=True)
class Assigner:
    """Runs the rules on one table of facts, and counts the rows that they concern."""

    database: DuckDBPyConnection
    config: PreprocessConfig
    classes: Classes
    source_name: str

    def run(self, facts: list[str], num_rows: int, result_path: str | Path) -> dict[str, Any]:
        """Write the ``result`` of ``rules.sql`` for files of facts on ``num_rows`` rows; returns what
        ``Assignment.make`` does.
        """
        splits, numbers = self.config.splits, self.classes.numbers
        variables: dict[str, float] = {f"drop_{name}": name in self.config.quality.drop for name in POLICIES}
        first_measured = TRAIN_NUMBER if splits.folds else VALIDATION_NUMBER
        self.set_variables(by_time=splits.time_column is not None, first_measured=first_measured, **variables)
        for name in (*ALL_SPLITS, None):
            macro = name or "no_split"
            self.database.execute(f"create macro {macro}() as {split_number(name)}::tinyint")
        self.apply("empty_tables")
        self.database.register("classes", pa.table({"name": [*numbers], "number": [*numbers.values()]}))
        self.database.execute("set variable fact_files = $files", {"files": facts})
        self.apply("facts", "labelled")
        (counts,) = self.rows_of("labelled_counts")
        rows_by_split = {name: counts.pop(name) for name in SPLITS}
        num_labelled, report = counts.pop("labelled"), counts
        self.check_labelled(num_labelled, report["empty"])
        fractions = {VALIDATION: splits.validation, TEST: splits.test}
        fractions |= {name: 0.0 for name in fractions if rows_by_split[name]}
        if splits.group_column is not None:
            report["groups"] = self.keep_groups_together()
        self.split_candidates(fractions, report)
        self.apply("assigned")
        (report["duplicates"],) = self.rows_of("duplicate_counts")
        if splits.folds:
            report["folds"] = self.assign_folds()
        has_unlabelled = self.count("facts where named = unlabelled()") > 0
        self.apply("unlabelled" if has_unlabelled else "no_unlabelled")
        quoted_path = str(result_path).replace("'", "''")
        self.database.execute(f"copy ({read_rules()['result']}) to '{quoted_path}' (format parquet)")
        self.database.execute(f"create view result as from read_parquet('{quoted_path}')")
        assert self.count("result") == num_rows, "facts on other rows than those of the corpus"
        if has_unlabelled:
            (report[UNLABELLED],) = self.rows_of("unlabelled_counts")
        policies = [name for name in POLICIES if name in self.config.quality.drop]
        report["dropped"] = {name: self.count(f"result where dropped = '{name}'") for name in policies}
        labels = self.count_classes("result where split between train() and test()", "split", len(SPLITS))
        return {"report": report, "labels": labels.tolist(), "named": rows_by_split, "labelled": num_labelled}

    def check_labelled(self, num_labelled: int, num_empty: int) -> None:
        """Raise ``DataError`` if nothing can be learned from the rows."""
        column, num_classes, problem = self.config.source.label_column, len(self.classes.names), ""
        if not num_labelled:
            problem = f"no row has a label in {column!r}, and a classifier needs some; check source.label_column"
        elif num_empty == num_labelled:
            problem = "no token is left of any text; check source.text_column and text.stop_words"
        elif num_classes > max(MANY_CLASSES, self.count_classes("labelled", "0", 1).sum() // 2):
            problem = (
                f"{column!r} has {num_classes:,} different labels in {num_labelled:,} rows, and a classifier needs "
                "labels that repeat; name another source.label_column, or turn numbers into a few classes first"
            )
        if problem:
            raise DataError(f"{self.source_name}: {problem}")

    def set_variables(self, **values: float) -> None:
        """Give variables of the rules their values, numbers or booleans."""
        for name, value in values.items():
            self.database.execute(f"set variable {name} = {value!r}")

    def apply(self, *names: str) -> None:
        """Execute rules."""
        for name in names:
            self.database.execute(read_rules()[name])

    def rows_of(self, name: str) -> list[dict[str, Any]]:
        """The rows of a rule's small result."""
        result = self.database.sql(read_rules()[name])
        return [dict(zip(result.columns, values, strict=True)) for values in result.fetchall()]

    def columns(self, query: str) -> dict[str, np.ndarray]:
        """The columns of a result without nulls."""
        return {name: np.asarray(values) for name, values in self.database.execute(query).fetchnumpy().items()}

    def count(self, condition: str) -> int:
        """The number of rows of a table that fulfil a condition."""
        return len(self.database.sql(f"from {condition}"))

    def count_labels(self, rows: str, column: str, num_values: int) -> np.ndarray:
        """int64 ``[values, labels]``: the number of rows by a column of numbers and by label."""
        query = f"select {column} as value, label, count(*) as num_rows from {rows} group by all"
        columns = self.columns(query)
        counts = np.zeros((num_values, len(self.classes.members)), np.int64)
        counts[columns["value"], columns["label"]] = columns["num_rows"]
        return counts

    def count_classes(self, rows: str, column: str, num_values: int) -> np.ndarray:
        """int64 ``[values, classes]``: as ``count_labels``, with a row for each class that it has."""
        return self.count_labels(rows, column, num_values) @ self.classes.members

    def keep_groups_together(self) -> dict[str, Any]:
        """Move rows to the split of their group; returns the manifest's ``statistics.groups``.

        Groups that the source itself divides are counted and left as they are. Raises ``DataError`` for a column that
        groups nothing.
        """
        column = self.config.splits.group_column
        (sizes,) = self.rows_of("group_sizes")
        if (sizes["largest"] or 0) < 2:
            problem = f"no value is in two rows of {column!r}, so it groups nothing"
            raise DataError(f"splits.group_column: {problem}; name another column, or leave it out")
        divided_groups = [
            {
                "groups": pair["groups"],
                "rows": {SPLITS[pair["first"]]: pair["first_rows"], SPLITS[pair["second"]]: pair["second_rows"]},
            }
            for pair in self.rows_of("groups_in_two_splits")
        ]
        self.apply("grouped")
        return {"column": column, **sizes, "shared": divided_groups}

    def split_candidates(self, fractions: dict[str, float], report: dict[str, Any]) -> None:
        """Split the candidates by time, in groups or by text; adds to the ``report`` what became of them."""
        splits = self.config.splits
        self.apply("candidates")
        if splits.group_column is not None or splits.time_column is not None:
            self.join_units()
        self.apply("units")
        if splits.time_column is not None:
            report["times"] = self.split_by_time(splits.time_column, fractions)
        elif any(fractions.values()) and self.count("candidates"):
            if splits.group_column is None:
                self.split_by_text(fractions)
            else:
                units = self.read_units()
                split = assign_splits(units, seed=self.config.seed, **fractions)
                self.insert("unit_splits", unit=units.hash, split=split)

    def join_units(self) -> None:
        """Join the nodes of the candidates that have a text in common."""
        node, unit = join_nodes(**self.columns(read_rules()["shared_texts"]))
        self.insert("joined", node=node, unit=unit)

    def insert(self, table: str, **columns: np.ndarray) -> None:
        """Replace the rows of a table."""
        self.database.register("inserted", pa.table(columns))
        self.database.execute(f"create or replace table {table} as from inserted")

    def read_units(self) -> Units:
        """The units of the candidates, with their rows of each label."""
        return Units.sum_counts(**self.columns(read_rules()["unit_labels"]), members=self.classes.members)

    def split_by_text(self, fractions: dict[str, float]) -> None:
        """Split candidates text by text, so that each label has the wanted share exactly, if texts are single."""
        self.apply("texts")
        members = self.classes.members
        sizes, num_labels = (
            self.columns("select label, sum(size)::bigint as size from texts group by label"),
            len(members),
        )
        label_rows = np.bincount(sizes["label"], sizes["size"], num_labels).astype(np.int64)
        _, validation, test = target_label_rows(label_rows, members, **fractions)
        smallest = np.where((validation > 0) & (test > 0), np.minimum(validation, test), validation + test)
        shares = {"label": np.arange(num_labels), "validation": validation, "test": test, "smallest": smallest}
        self.database.register("shares", pa.table(shares))
        self.apply("split_by_text")

    def split_by_time(self, column: str, fractions: dict[str, float]) -> dict[str, Any]:
        """Split candidates by their time; returns the manifest's ``statistics.times``."""
        key = f"splits.time_column: {column!r}"
        if not any(fractions.values()):
            problem = "has nothing to cut: the source names the splits, or their shares are 0; leave it out"
            raise DataError(f"{key} {problem}")
        (counts,) = self.rows_of("time_counts")
        if counts["numbers"] and counts["dates"]:
            raise DataError(f"{key}: times are written in two ways (numbers and dates); write all as 2024-12-31")
        end_of_validation = 1 - fractions[TEST]
        self.set_variables(end_of_train=end_of_validation - fractions[VALIDATION], end_of_validation=end_of_validation)
        self.apply("split_by_time")
        starts = dict[str, str]()
        for first in self.rows_of("first_times"):
            time = str(np.datetime64(first["time"], "s") if counts["dates"] else first["time"])
            starts[SPLITS[first["split"]]] = time.removesuffix("T00:00:00")
        if not starts:
            raise DataError(
                f"{key}: all rows have the same time, or equal texts, so time cannot cut them; leave it out"
            )
        return {"column": column, "without": counts["without"], "from": starts}

    def assign_folds(self) -> dict[str, Any]:
        """Give each row of training and validation a fold; returns the manifest's ``statistics.folds``.

        Raises ``DataError`` if there is nothing to measure on a fold, or if no other fold has one of its labels.
        """
        folds = self.config.splits.folds
        self.apply("fold_candidates")
        self.join_units()
        self.apply("units")
        units = self.read_units()
        self.insert("unit_folds", unit=units.hash, fold=assign_folds(units, seed=self.config.seed, folds=folds))
        label_rows = self.count_labels("units join unit_folds using (unit)", "fold", folds)
        counts = label_rows @ self.classes.members
        for number, fold_rows in enumerate(counts):
            is_present = fold_rows > 0
            if is_present.sum() < 2 or (fold_rows == counts.sum(axis=0))[is_present].any():
                problem = f"fold {number} of {folds} has fewer than two labels, or all rows of one"
                raise DataError(f"splits.folds: {problem}; ask for fewer folds, or give more rows of each label")
        return {"rows": label_rows.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": len(units.hash)}


def check_splits(observed: dict[str, Any], num_rows: int, classes: Classes, splits: SplitConfig) -> None:
    """Raise ``DataError`` for a split without rows or with too few labels: of one class, unless texts have several.

    ``observed``: of ``Assignment``; ``num_rows``: all rows.
    """
    fractions = {TRAIN: 1.0, VALIDATION: splits.validation, TEST: splits.test}
    for (name, fraction), label_rows in zip(fractions.items(), observed["labels"], strict=True):
        present_names = [class_name for class_name, rows in zip(classes.names, label_rows, strict=True) if rows]
        absent_names = [class_name for class_name in classes.names if class_name not in present_names]
        problem = ""
        if not present_names and (fraction or observed["named"][name]):
            problem = (
                f"no row is left for it, of {num_rows:,}: equal texts, groups, and a class of one or two, stay in one "
                "split, and quality.drop may leave rows out; give more, or change splits"
            )
        elif len(present_names) == 1 and classes.label_sets is None:
            problem = (
                f"every row has the label {present_names[0]!r}, and a classifier needs two classes; check the source "
                "and its labels, give more rows of the others, or change splits"
            )
        elif name == TRAIN and absent_names:
            problem = f"no row has the label {absent_names[0]!r}; move some of its rows to train, or take its rows out"
        if problem:
            raise DataError(f"split {name}: {problem}")
