# SPDX-License-Identifier: Apache-2.0
"""Finds rows to learn from that nearly repeat a row of validation or test: MinHash, then an exact comparison.

Two texts are compared by their pairs of neighbouring tokens: the Jaccard index is the share of all their different
pairs that both have. A text has, for each of some hash functions, a value: the least hash of its pairs. Two texts agree
in a value with the probability of their Jaccard index (Broder 1997). Those that agree in all values of one of
``NUM_BANDS`` bands are candidates (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

Three steps: the bands of each part; the candidates, by a query over all bands; their comparison, part by part.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base import arrays, atomic
from preprocessing.base.randomness import splitmix64, words
from preprocessing.base.split_names import NO_SPLIT, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import NEAR_DUPLICATES
from preprocessing.job import engine, parts
from preprocessing.job.assign import AssignedParts, open_database
from preprocessing.job.executors import Workers
from preprocessing.job.parts import type_hashes

MIN_SIMILARITY = 0.5
"""From this Jaccard index on, one text nearly repeats the other."""
NUM_BANDS, VALUES_PER_BAND = 32, 4
FACTORS = words(0, count=NUM_BANDS * VALUES_PER_BAND).reshape(NUM_BANDS, -1).astype(np.uint32) | np.uint32(1)
"""One for each hash function: a product with an odd number."""
MAX_PAIRS_IN_MEMORY = 1 << 13
"""Pairs of texts that are compared at once."""
MEASURED = (VALIDATION_NUMBER, TEST_NUMBER)
CANDIDATES = """
copy (
    with bands as (from read_parquet(getvariable('band_files'))),
    measured as (
        select band, arg_max(row, xor(band, row::ubigint * 2654435761)) as measured_row
        from bands where is_measured group by band
    )
    select distinct row, measured_row from bands join measured using (band) where not is_measured
    order by row, measured_row
) to '{path}' (format parquet)
"""
"""Rows to learn from, each with measured rows that have an equal band. Of measured rows with an equal band one is
drawn, so a sentence that many texts have in common costs little."""


@dataclass(frozen=True)
class PartTokens:
    """The tokens of the rows of a part."""

    row: np.ndarray
    """int64 ``[rows]``: the number of each row in the source, in stored order."""
    codes: np.ndarray
    offsets: np.ndarray
    """int64 ``[rows + 1]``, into ``codes``."""
    type_hash: np.ndarray
    """uint64 by code."""

    @classmethod
    def load(cls, work: Path, number: int) -> PartTokens:
        """The tokens of one part, mapped."""
        stored = parts.load(work, number)
        return cls(stored["row"], stored["codes"], stored["offsets"], type_hashes(parts.load_types(work, number)))

    def shingles(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint64: a hash of each pair of neighbouring tokens of some rows, row by row; and int64 ``[rows + 1]``, where
        those of each row begin. Each row has two tokens or more.
        """
        codes, offsets = arrays.take(self.codes, self.offsets, positions)
        tokens, has_next = self.type_hash[codes], np.ones(len(codes), bool)
        has_next[offsets[1:] - 1] = False
        pairs = splitmix64(tokens + 3 * np.roll(tokens, -1))
        return pairs[has_next], offsets - np.arange(len(offsets))

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """int64: where some rows are stored."""
        order = np.argsort(self.row)
        return np.asarray(order[np.searchsorted(self.row, rows, sorter=order)])


@dataclass(frozen=True)
class BandedPart(engine.Part[int]):
    """The bands of a part's rows, to be computed; the result is the number of rows."""

    number: int
    assigned: AssignedParts

    result: ClassVar[type] = int

    def make(self) -> tuple[int, dict[str, str]]:
        """Store a hash of the values of each band of each row, with its number and whether it is measured."""
        tokens = PartTokens.load(self.assigned.work, self.number)
        split = self.assigned.load(self.number)["split"]
        positions = np.flatnonzero((split != NO_SPLIT) & (np.diff(tokens.offsets) > 1))
        hashes, offsets = tokens.shingles(positions)
        hashes_32 = (hashes >> 32).astype(np.uint32)
        bands = np.empty((NUM_BANDS, len(positions)), np.uint64)
        for band, factors in enumerate(FACTORS):
            bands[band] = band
            for factor in factors:
                bands[band] = splitmix64(bands[band] ^ np.minimum.reduceat(hashes_32 * factor, offsets[:-1]))
        rows, is_measured = tokens.row[positions], np.isin(split[positions], MEASURED)
        columns = {"band": bands.ravel(), "row": np.tile(rows, NUM_BANDS)}
        columns["is_measured"] = np.tile(is_measured, NUM_BANDS)
        path = band_path(self.root, self.number)
        with atomic.replacing(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="lz4")
        return len(positions), {path.name: atomic.sha256_file(path)}


def band_path(folder: Path, number: int) -> Path:
    """The file of a ``BandedPart``."""
    return folder / f"{number:06d}-bands.parquet"


@dataclass(frozen=True)
class Candidates(engine.Part[int]):
    """The candidates among all rows, to be found; the result is their number."""

    num_parts: int

    result: ClassVar[type] = int

    def make(self) -> tuple[int, dict[str, str]]:
        """Store pairs of a row to learn from and a measured one."""
        path = candidates_path(self.root)
        files = [str(band_path(self.root, number)) for number in range(self.num_parts)]
        with open_database(self.root / "candidates") as database, atomic.replacing(path) as temporary:
            database.execute("set variable band_files = $files", {"files": files})
            database.execute(CANDIDATES.format(path=str(temporary).replace("'", "''")))
        return pq.read_metadata(path).num_rows, {path.name: atomic.sha256_file(path)}


def candidates_path(folder: Path) -> Path:
    """The file of ``Candidates``."""
    return folder / "candidates.parquet"


@dataclass(frozen=True)
class ComparedPart(engine.Part[int]):
    """The candidates of a part, to be compared; the result is how many rows nearly repeat a measured one."""

    number: int
    assigned: AssignedParts

    result: ClassVar[type] = int

    def make(self) -> tuple[int, dict[str, str]]:
        """Store, in the order of the source, ``row`` of those that nearly repeat a measured row, the most similar one,
        ``other``, and their ``similarity``.
        """
        tokens, first_rows = PartTokens.load(self.assigned.work, self.number), self.first_rows()
        inside = [("row", ">=", int(tokens.row.min(initial=0))), ("row", "<=", int(tokens.row.max(initial=-1)))]
        pairs = pq.read_table(candidates_path(self.root), filters=inside)
        row, other = pairs["row"].to_numpy(), pairs["measured_row"].to_numpy()
        part_of_other = np.searchsorted(first_rows, other, side="right") - 1
        similarity = np.zeros(len(row))
        for part in np.unique(part_of_other):
            other_tokens = PartTokens.load(self.assigned.work, int(part))
            chosen = np.flatnonzero(part_of_other == part)
            for pair in np.split(chosen, range(MAX_PAIRS_IN_MEMORY, len(chosen), MAX_PAIRS_IN_MEMORY)):
                mine = tokens.shingles(tokens.positions(row[pair]))
                similarity[pair] = jaccard_index(mine, other_tokens.shingles(other_tokens.positions(other[pair])))
        order = np.lexsort((other, -similarity, row))
        order = order[similarity[order] >= MIN_SIMILARITY]
        order = order[np.unique(row[order], return_index=True)[1]]
        path = compared_path(self.root, self.number)
        arrays.write_batch(path, {"row": row[order], "other": other[order], "similarity": similarity[order]})
        return len(order), {path.name: atomic.sha256_file(path)}

    def first_rows(self) -> np.ndarray:
        """int64 ``[parts]``: the first row of each part."""
        rows = [parts.load_columns(self.assigned.path(number))["row"] for number in range(self.assigned.num_parts)]
        return np.array([part_rows[0] for part_rows in rows])


def compared_path(folder: Path, number: int) -> Path:
    """The file of a ``ComparedPart``."""
    return folder / f"{number:06d}-compared.arrow"


def jaccard_index(*texts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """float64: the Jaccard index of each of some texts with its counterpart; ``PartTokens.shingles`` of both sides."""
    sides = []
    for hashes, offsets in texts:
        text = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        sides.append(np.unique(text << 43 | (hashes >> 21).astype(np.int64)))
    pairs = np.sort(np.concatenate(sides))
    in_both = pairs[1:][np.diff(pairs) == 0]
    num_texts = len(texts[0][1]) - 1
    total, shared = (np.bincount(values >> 43, minlength=num_texts) for values in (pairs, in_both))
    return shared / (total - shared)


def leave_out(assigned: AssignedParts, observed: dict[str, Any], workers: Workers, screen: Screen) -> AssignedParts:
    """The assignments without the rows that nearly repeat a measured one. They are listed in a file of the dataset, and
    counted as dropped in ``observed``, that of ``Assignment``.
    """
    folder, num_parts = assigned.work / "near", assigned.num_parts
    num_rows = assigned.num_labelled + assigned.num_unlabelled
    key, size = assigned.hash, num_rows // num_parts
    banded, compared = list[engine.Part[int]](), list[engine.Part[int]]()
    for number in range(num_parts):
        banded.append(BandedPart(key, folder, folder / f"{number:06d}-bands.json", size, number, assigned))
        compared.append(ComparedPart(key, folder, folder / f"{number:06d}-compared.json", size, number, assigned))
    candidates = Candidates(key, folder, folder / "candidates.json", num_rows, num_parts)
    for tasks in (banded, [candidates], compared):
        with engine.show_progress("near-duplicates", num_rows, screen.quiet) as progress:
            deque(engine.run(tasks, workers, progress), 0)
    return drop_rejected(assigned, observed, folder)


def drop_rejected(assigned: AssignedParts, observed: dict[str, Any], folder: Path) -> AssignedParts:
    """``leave_out`` once the candidates have been compared in ``folder``."""
    import pandas as pd

    result = replace(assigned, table="assigned-apart")
    label_rows, rejected, path = observed["labels"][TRAIN_NUMBER], [], assigned.work.parent / NEAR_DUPLICATES
    for number in range(assigned.num_parts):
        rejected.append(parts.read_batch(compared_path(folder, number)).to_pandas())
        columns = parts.load_columns(assigned.path(number))
        is_rejected = np.isin(columns["row"], rejected[-1]["row"])
        for label in columns["label"][is_rejected & (columns["split"] == TRAIN_NUMBER)]:
            label_rows[label] -= 1
        columns["split"] = np.where(is_rejected, np.int8(NO_SPLIT), columns["split"])
        arrays.write_batch(result.path(number), columns)
    listed = pd.concat(rejected)
    with atomic.replacing(path) as temporary:
        listed.to_csv(temporary, index=False, float_format="%.4f")
    observed["report"]["dropped"]["near_duplicates"] = len(listed)
    return replace(result, hash=assigned.hash + atomic.sha256_file(path))
