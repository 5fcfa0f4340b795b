# SPDX-License-Identifier: Apache-2.0
"""Assigns each row a split and a fold, or leaves it out: runs ``preprocessing.job.rules`` in DuckDB, whose memory is
bounded for any number of rows.

Units of several rows are packed by ``preprocessing.job.packing``, by row counts that queries return.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    SPLITS,
    TEST,
    TEST_NUMBER,
    TRAIN,
    TRAIN_NUMBER,
    UNLABELLED,
    VALIDATION,
    VALIDATION_NUMBER,
)
from preprocessing.config import PreprocessConfig, SplitConfig
from preprocessing.job import engine, parts, rules
from preprocessing.job.packing import Units, assign_folds, assign_splits, join_nodes, target_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY_LIMIT = "200MB"
"""Of DuckDB, which writes to files beyond it."""
BATCH_ROWS = 1 << 16
LABELLED_POLICIES = ("empty", "contradictions", "leaks", "duplicates")
UNLABELLED_POLICIES = ("empty", "leaks", "duplicates")
MANY_CLASSES = 20
"""So many may have one or two rows each, as in a first trial."""


@dataclass(frozen=True)
class Assignment(engine.Part[dict[str, Any]]):
    """The assignment of all rows of a corpus to splits and folds, as a task."""

    config: PreprocessConfig
    class_numbers: dict[str, int]
    """Label as written -> number of its class."""
    rows_per_part: tuple[int, ...]
    source_name: str
    """The labelled files, for messages."""

    result: ClassVar[Any] = dict[str, Any]

    def make(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Store the assignments of each part.

        Returns what was observed: ``report`` for the manifest, ``labels`` (rows of each split and label), ``named``
        (rows of each split that the source names), ``labelled`` (rows with a label) and ``fractions`` (of the rows that
        the seed was to split, those for validation and test). Raises ``DataError`` for an unusable split.
        """
        work = self.root.parent
        facts = [str(parts.file_of(self.root, number, "facts")) for number in range(len(self.rows_per_part))]
        num_labels = len(set(self.class_numbers.values()))
        atomic.sweep(work / "assign")
        folder = atomic.unfinished(work / "assign")  # another share may make the same part
        result_path = folder / "result.parquet"
        try:
            with open_database(folder) as database:
                assigner = Assigner(database, self.config, num_labels, self.source_name)
                observed = assigner.run(facts, self.class_numbers)
                path = str(result_path).replace("'", "''")
                database.execute(f"copy ({rules.RESULT}) to '{path}' (format parquet)")
            return observed, self.write_parts(result_path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def write_parts(self, result_path: Path) -> dict[str, str]:
        """Cut the table of all rows into a file for each part; returns the sha256 of each by its name."""
        hashes = dict[str, str]()
        with pq.ParquetFile(result_path) as result:
            batches = result.iter_batches(BATCH_ROWS)
            pending = result.schema_arrow.empty_table()
            for number, num_rows in enumerate(self.rows_per_part):
                while len(pending) < num_rows:
                    pending = pa.concat_tables([pending, pa.Table.from_batches([next(batches)])])
                part = pending.slice(0, num_rows)
                pending = pending.slice(num_rows)
                path = parts.file_of(self.root, number, "assigned")
                arrays.write_batch(path, {name: part[name].combine_chunks() for name in part.column_names})
                hashes[path.name] = atomic.sha256_file(path)
        return hashes


@dataclass(frozen=True)
class AssignedParts:
    """The parts of a corpus with the assignment of every row, on disk for the workers."""

    work: Path
    num_parts: int
    num_labelled: int
    """Rows with a label, and below those without, also those that are left out."""
    num_unlabelled: int
    hash: str
    """Over all parts and assignments."""

    def path(self, number: int) -> Path:
        """The file with the assignments of a part's rows: ``row`` (ascending), ``split``, ``label``, ``fold``."""
        return parts.file_of(self.work / "parts", number, "assigned")

    def load(self, number: int) -> dict[str, np.ndarray]:
        """``split`` (int8), ``label`` (int32) and ``fold`` (int16) of the rows of one part, in the order of
        ``parts.load``.
        """
        assigned = parts.load_columns(self.path(number))
        position = np.searchsorted(assigned.pop("row"), parts.load(self.work, number)["row"])
        return {name: values[position] for name, values in assigned.items()}


@contextmanager
def open_database(folder: Path) -> Iterator[DuckDBPyConnection]:
    """A database in a new folder."""
    import duckdb

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "spilled"), "threads": 1}
    with duckdb.connect(str(folder / "facts.duckdb"), config=settings) as database:
        yield database


@dataclass(frozen=True)
class Assigner:
    """Runs the rules on one table of facts, and counts what they found."""

    database: DuckDBPyConnection
    config: PreprocessConfig
    num_labels: int
    source_name: str

    def run(self, facts: list[str], class_numbers: dict[str, int]) -> dict[str, Any]:
        """Make the tables of which ``rules.RESULT`` is the result, from files of facts; as ``Assignment.make``."""
        splits, quality = self.config.splits, self.config.quality
        for name in LABELLED_POLICIES:
            self.set_variable(f"drop_{name}", getattr(quality, name) == "drop")
        self.set_variable("by_time", splits.time_column is not None)
        self.set_variable("first_measured", TRAIN_NUMBER if splits.folds else VALIDATION_NUMBER)
        self.database.execute(rules.SPLIT_NUMBERS + rules.EMPTY_TABLES)
        self.register("classes", {"name": list(class_numbers), "number": list(class_numbers.values())})
        self.database.execute("set variable fact_files = $files", {"files": facts})
        self.database.execute(rules.FACTS)
        self.database.execute(rules.LABELLED)
        counts = f"count(*), {COUNT_EMPTY}, count(*) filter (contradicts), count(*) filter (leaks)"
        num_labelled, empty, missing_text, contradictions, leaks = self.row(f"select {counts} from labelled")
        report: dict[str, Any] = {
            "empty": empty,
            "missing_text": missing_text,
            "contradictions": contradictions,
            "leaks": leaks,
        }
        rows_by_split = {name: self.count(f"labelled where named = {name}()") for name in SPLITS}
        self.check_labelled(num_labelled, empty, rows_by_split)
        fractions = {name: 0.0 if rows_by_split[name] else getattr(splits, name) for name in (VALIDATION, TEST)}
        if splits.group_column is not None:
            report["groups"] = self.keep_groups_together()
        self.split_candidates(fractions, report)
        self.database.execute(rules.ASSIGNED)
        normalised, across = self.row(
            "select count(*) filter (is_duplicate), count(*) filter (is_parted) from repeated_rows"
        )
        report["duplicates"] = {"normalised": normalised, "across_splits": across}
        report["dropped"] = self.count_dropped("assigned", LABELLED_POLICIES)
        labels = self.count_labels("assigned where dropped is null", "split", len(SPLITS))
        if splits.folds:
            report["folds"] = self.assign_folds()
        self.database.execute(rules.UNLABELLED)
        unlabelled = self.count_unlabelled()
        if unlabelled["rows"]:
            report[UNLABELLED] = unlabelled
            for name, num_rows in self.count_dropped("unlabelled_rows", UNLABELLED_POLICIES).items():
                report["dropped"][name] += num_rows
        return {
            "report": report,
            "labels": labels.tolist(),
            "named": rows_by_split,
            "labelled": num_labelled,
            "fractions": fractions,
        }

    def check_labelled(self, num_labelled: int, num_empty: int, rows_by_split: dict[str, int]) -> None:
        """Raise ``DataError`` if nothing can be learned from the rows, or a split that the user names has none."""
        source, splits = self.config.source, self.config.splits
        if not num_labelled:
            problem = f"no row has a label in {source.label_column!r}"
            raise DataError(f"{self.source_name}: {problem}, and a classifier needs some; check source.label_column")
        if num_empty == num_labelled:
            raise DataError(f"{self.source_name}: no token is left of any text; check text.stop_words")
        if self.num_labels > max(MANY_CLASSES, num_labelled // 2):
            problem = f"{source.label_column!r} has {self.num_labels:,} different labels in {num_labelled:,} rows"
            hint = "name another source.label_column, or turn numbers into a few classes first"
            raise DataError(f"{self.source_name}: {problem}, and a classifier needs labels that repeat; {hint}")
        if self.count(f"repeated_texts where num_rows = {num_labelled}"):
            raise DataError(f"{self.source_name}: all {num_labelled} texts are equal; check source.text_column")
        for name, values in splits.names.items():
            if rows_by_split.get(name) == 0:
                values_in_words = ", ".join(map(repr, values))
                problem = f"no row has one of these in {splits.column!r}: {values_in_words}"
                raise DataError(f"splits.names.{name}: {problem}; correct the key")

    def set_variable(self, name: str, value: float) -> None:
        """Give a variable of the rules its value, a number or a boolean."""
        self.database.execute(f"set variable {name} = {value!r}")

    def register(self, table: str, columns: dict[str, Any]) -> None:
        """Make a table for the rules."""
        self.database.register(table, pa.table(columns))

    def columns(self, query: str) -> dict[str, np.ndarray]:
        """The columns of a result without nulls."""
        return {name: np.asarray(values) for name, values in self.database.execute(query).fetchnumpy().items()}

    def row(self, query: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        """The only row of a result."""
        (values,) = self.database.execute(query, parameters).fetchall()
        return tuple(values)

    def count(self, rows: str) -> int:
        """The number of rows of a table, or of those that fulfil a condition."""
        return int(self.row(f"select count(*) from {rows}")[0])

    def count_labels(self, rows: str, column: str, num_values: int) -> np.ndarray:
        """int64 ``[values, labels]``: the number of rows by a column of numbers and by label."""
        query = f"select {column} as value, label, count(*) as num_rows from {rows} group by all"
        columns = self.columns(query)
        counts = np.zeros((num_values, self.num_labels), np.int64)
        counts[columns["value"], columns["label"]] = columns["num_rows"]
        return counts

    def count_dropped(self, table: str, policies: Sequence[str]) -> dict[str, int]:
        """The rows that each policy of dropping left out."""
        policies = [name for name in policies if getattr(self.config.quality, name) == "drop"]
        return {name: self.count(f"{table} where dropped = '{name}'") for name in policies}

    def count_unlabelled(self) -> dict[str, int]:
        """What was found among the rows without labels."""
        counted_columns = f"count(*), {COUNT_EMPTY}, count(*) filter (leaks), count(*) filter (is_duplicate)"
        values = self.row(f"select {counted_columns} from unlabelled_rows")
        return dict(zip(("rows", "empty", "missing_text", "shared", "duplicates"), values, strict=True))

    def keep_groups_together(self) -> dict[str, Any]:
        """Move rows to the split of their group; returns the manifest's ``statistics.groups``.

        Groups that the source itself divides are counted and left as they are. Raises ``DataError`` for a column that
        groups nothing.
        """
        column = self.config.splits.group_column
        sizes = "select count(*) as size from labelled where group_hash <> 0 group by group_hash"
        num_groups, largest = self.row(f"select count(*), max(size) from ({sizes})")
        if not num_groups or largest < 2:
            problem = f"no value is in two rows of {column!r}, so it groups nothing"
            raise DataError(f"splits.group_column: {problem}; name another column, or leave it out")
        divided = list[dict[str, Any]]()
        for first, second in itertools.combinations(range(len(SPLITS)), 2):
            numbers = {"first": first, "second": second}
            groups, first_rows, second_rows = self.row(rules.GROUPS_IN_TWO_SPLITS, numbers)
            if groups:
                rows = {SPLITS[first]: first_rows, SPLITS[second]: second_rows}
                divided.append({"groups": groups, "rows": rows})
        self.database.execute(rules.GROUPED)
        return {"column": column, "groups": num_groups, "largest": largest, "shared": divided, "cut": {}}

    def split_candidates(self, fractions: dict[str, float], report: dict[str, Any]) -> None:
        """Split the candidates by time, in groups or by text; adds to the ``report`` what became of them."""
        splits = self.config.splits
        self.database.execute(rules.CANDIDATES)
        if splits.group_column is not None or splits.time_column is not None:
            self.join_units()
        self.database.execute(rules.UNITS)
        if splits.time_column is not None:
            report["times"] = self.split_by_time(splits.time_column, fractions)
        elif any(fractions.values()) and self.count("candidates"):
            if splits.group_column is None:
                self.split_by_text(fractions)
            else:
                units = self.units()
                split = assign_splits(units, seed=self.config.seed, **fractions)
                self.insert("unit_splits", unit=units.hash, split=split)
                report["groups"]["cut"] = self.shares(fractions)

    def join_units(self) -> None:
        """Join the nodes of the candidates that have a text in common."""
        links = self.columns(rules.SHARED_TEXTS)
        node, unit = join_nodes(links["node"], links["text_hash"])
        self.insert("joined", node=node, unit=unit)

    def insert(self, table: str, **columns: np.ndarray) -> None:
        """Replace the rows of a table."""
        self.database.execute(f"delete from {table}")
        self.register("inserted", columns)
        self.database.execute(f"insert into {table} from inserted")
        self.database.unregister("inserted")

    def units(self) -> Units:
        """The units of the candidates, with their rows of each label."""
        unit_labels = self.columns(rules.UNIT_LABELS)
        return Units.from_counts(unit_labels["unit"], unit_labels["label"], unit_labels["num_rows"], self.num_labels)

    def split_by_text(self, fractions: dict[str, float]) -> None:
        """Split candidates text by text, so that each label has the wanted share exactly, if texts are single."""
        self.database.execute(rules.TEXTS)
        query = "select label, sum(size)::bigint as num_rows from texts group by label"
        rows_of_label = self.columns(query)
        label_rows = np.zeros(self.num_labels, np.int64)
        label_rows[rows_of_label["label"]] = rows_of_label["num_rows"]
        target = target_rows(label_rows, **fractions)[:, :-1]
        validation, test = target[VALIDATION_NUMBER], target[TEST_NUMBER]
        smallest = np.where((validation > 0) & (test > 0), np.minimum(validation, test), validation + test)
        labels = np.arange(self.num_labels)
        self.register("shares", {"label": labels, "validation": validation, "test": test, "smallest": smallest})
        self.database.execute(rules.SPLIT_BY_TEXT)

    def split_by_time(self, column: str, fractions: dict[str, float]) -> dict[str, Any]:
        """Split candidates by their time; returns the manifest's ``statistics.times``."""
        key = f"splits.time_column: {column!r}"
        if not any(fractions.values()):
            problem = "has nothing to cut: the source names the splits, or their shares are 0; leave it out"
            raise DataError(f"{key} {problem}")
        numbers, dates, without = self.row(
            "select count(number), count(date), count(*) filter (number is null and date is null) from candidates"
        )
        if numbers and dates:
            raise DataError(f"{key}: times are written in two ways (numbers and dates); write all as 2024-12-31")
        self.set_variable("end_of_train", 1 - fractions[TEST] - fractions[VALIDATION])
        self.set_variable("end_of_validation", 1 - fractions[TEST])
        self.database.execute(rules.SPLIT_BY_TIME)
        shares = self.shares(fractions)
        if not shares:
            raise DataError(
                f"{key}: all rows have the same time, or equal texts, so time cannot cut them; leave it out"
            )
        for name, share in shares.items():
            (begin,) = self.row(f"select min(latest) from unit_times where split = {name}()")
            first_time = str(np.datetime64(int(begin), "s") if dates else int(begin))
            share["from"] = first_time.removesuffix("T00:00:00")
        return {"column": column, "without": without, "cut": shares}

    def shares(self, fractions: dict[str, float]) -> dict[str, dict[str, Any]]:
        """The candidates that each split got, beside the wanted fraction, for the manifest."""
        total, shares = self.count("units"), dict[str, dict[str, Any]]()
        for name, fraction in fractions.items():
            num_rows = self.count(f"units join unit_splits using (unit) where unit_splits.split = {name}()")
            if num_rows:
                shares[name] = {"rows": num_rows, "share": round(num_rows / total, 6), "wanted": fraction}
        return shares

    def assign_folds(self) -> dict[str, Any]:
        """Give each row of training and validation a fold; returns the manifest's ``statistics.folds``.

        Raises ``DataError`` if there is nothing to measure on a fold, or if no other fold has one of its labels.
        """
        folds = self.config.splits.folds
        self.database.execute(rules.FOLD_CANDIDATES)
        self.join_units()
        self.database.execute(rules.UNITS)
        units = self.units()
        self.insert("unit_folds", unit=units.hash, fold=assign_folds(units, seed=self.config.seed, folds=folds))
        counts = self.count_labels("units join unit_folds using (unit)", "fold", folds)
        for number, fold_rows in enumerate(counts):
            is_present = fold_rows > 0
            if is_present.sum() < 2 or (fold_rows == counts.sum(axis=0))[is_present].any():
                problem = f"fold {number} of {folds} has fewer than two labels, or all rows of one"
                raise DataError(f"splits.folds: {problem}; ask for fewer folds, or give more rows of each label")
        return {"rows": counts.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": len(units.hash)}


COUNT_EMPTY = "count(*) filter (is_empty), count(*) filter (missing)"


def check_splits(observed: dict[str, Any], num_rows: int, class_names: list[str], splits: SplitConfig) -> None:
    """Raise ``DataError`` for a split without rows or with too few labels.

    ``observed``: of ``Assignment``; ``num_rows``: all rows.
    """
    wanted = {TRAIN: 1.0, VALIDATION: splits.validation, TEST: splits.test}
    for (name, fraction), label_rows in zip(wanted.items(), np.array(observed["labels"]), strict=True):
        present_labels, absent_labels = np.flatnonzero(label_rows), np.flatnonzero(label_rows == 0)
        if not len(present_labels) and (fraction or observed["named"][name]):
            reason = (
                "equal texts, groups, and a class of one or two, stay in one split, and keys of quality may drop rows"
            )
            raise DataError(
                f"split {name}: no row is left for it, of {num_rows:,}: {reason}; give more, or change splits"
            )
        if len(present_labels) == 1:
            only = f"all {label_rows.sum()} rows have the label {class_names[present_labels[0]]!r}"
            raise DataError(f"split {name}: {only}; a classifier needs two classes: check the source and its labels")
        if name == TRAIN and len(absent_labels):
            hint = "leave it out with source.labels or source.neutral"
            raise DataError(
                f"split {name}: no row has the label {class_names[absent_labels[0]]!r}; add some, or {hint}"
            )
