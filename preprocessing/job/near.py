# SPDX-License-Identifier: Apache-2.0
"""Finds rows to learn from that nearly repeat a row of validation or test: MinHash, then an exact comparison.

Two texts are compared by their pairs of neighbouring tokens: the Jaccard index is the share of all their different
pairs that both have. A text has, for each of some hash functions, a value: the least hash of its pairs. Two texts agree
in a value with the probability of their Jaccard index (Broder 1997). Those that agree in all values of one of ``BANDS``
bands are candidates (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

Three stages of a job, each in parts: the sorted bands of each part of the corpus; the candidates in each range of
bands, out of all parts; and what is left of a part's candidates when they are compared. Memory is that of one part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.randomness import splitmix64, words
from preprocessing.base.split_names import NO_SPLIT, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import NEAR_DUPLICATES
from preprocessing.job import engine, parts
from preprocessing.job.assign import AssignedParts
from preprocessing.job.executors import Workers
from preprocessing.job.parts import type_hashes

LEAST = 0.5
"""From this Jaccard index on, one text nearly repeats the other."""
BANDS, PER_BAND = 32, 4
FACTORS = words(0, count=BANDS * PER_BAND).reshape(BANDS, PER_BAND).astype(np.uint32) | np.uint32(1)
"""One for each hash function: a product with an odd number."""
PLACE_BITS = 28
"""Low bits of a stored band that are the place of its row in the part; the others are a hash."""
RANGE_BANDS = 1 << 20
"""Bands of a range, about."""
COMPARED = 1 << 19
"""Tokens that are compared together, about."""
MEASURED = (VALIDATION_NUMBER, TEST_NUMBER)


@dataclass(frozen=True)
class Stage(engine.Part[int]):
    """A part of a stage, which stores a table."""

    table: Callable[[Stage], dict[str, np.ndarray]]
    """One of the functions below."""
    number: int
    assigned: AssignedParts
    of: int
    """How many ranges of bands there are."""

    result: ClassVar[type] = int

    def make(self) -> tuple[int, dict[str, str]]:
        """Store the table."""
        path = parts.file_of(self.root, self.number, self.table.__name__)
        arrays.write_batch(path, self.table(self))
        return self.size, {path.name: atomic.sha256_file(path)}

    def rows(self, number: int) -> dict[str, np.ndarray]:
        """``parts.load``."""
        return parts.load(self.assigned.work, number)

    def shingles(self, number: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint64: a hash of each pair of neighbouring tokens of some rows of a part, row by row; and int64 ``[rows +
        1]``, where those of each row begin. Each row has two tokens or more.
        """
        stored, types = self.rows(number), parts.load_types(self.assigned.work, number)
        codes, offsets = arrays.take(stored["codes"], stored["offsets"], places)
        occurring = np.flatnonzero(np.bincount(codes, minlength=len(types)))
        of_types = np.zeros(len(types), np.uint64)
        of_types[occurring] = type_hashes(types.take(occurring))
        tokens, inside = of_types[codes], np.ones(len(codes), bool)
        inside[offsets[1:] - 1] = False
        pairs = splitmix64(tokens + 3 * np.roll(tokens, -1))
        return pairs[inside], offsets - np.arange(len(offsets))


def bands(stage: Stage) -> dict[str, np.ndarray]:
    """Of a part, ascending: a hash of the values of each band of a row, with the row's place in its low bits."""
    sizes = np.diff(stage.rows(stage.number)["offsets"])
    places = np.flatnonzero((stage.assigned.load(stage.number)["split"] != NO_SPLIT) & (sizes > 1))
    hashes, offsets = stage.shingles(stage.number, places)
    mixed = (hashes >> 32).astype(np.uint32)
    band = np.empty((BANDS, len(places)), np.uint64)
    for number, factors in enumerate(FACTORS):
        values = np.full(len(places), number, np.uint64)
        for factor in factors:
            values = splitmix64(values ^ np.minimum.reduceat(mixed * factor, offsets[:-1]))
        band[number] = values >> PLACE_BITS << PLACE_BITS | places.astype(np.uint64)
    return {"band": np.sort(band, axis=None)}


def candidates(stage: Stage) -> dict[str, np.ndarray]:
    """Of a range of bands: ``mine``, a row to learn from, and ``its``, a measured one with an equal band. A number of a
    row is that of its part, then its place.

    Of measured rows with an equal band one is drawn for it, so a sentence that many texts have in common costs little.
    """
    import pandas as pd

    pieces = []
    for part in range(stage.assigned.num_parts):
        path = parts.file_of(stage.root, part, bands.__name__)
        band = parts.within(path, "band", stage.number, stage.of)["band"].to_numpy()
        hashes, place = band >> PLACE_BITS, (band % (1 << PLACE_BITS)).astype(np.int64)
        measured = np.isin(stage.assigned.load(part)["split"][place], MEASURED)
        drawn = splitmix64(hashes + stage.rows(part)["row"][place].astype(np.uint64))
        columns = {"hash": hashes, "row": part << PLACE_BITS | place, "measured": measured, "drawn": drawn}
        pieces.append(pd.DataFrame(columns))
    rows = pd.concat(pieces)
    its = rows[rows["measured"]].sort_values("drawn").drop_duplicates("hash", keep="last")
    pairs = rows[~rows["measured"]].merge(its, on="hash", suffixes=("", "_its")).sort_values("row")
    return {"mine": pairs["row"].to_numpy(), "its": pairs["row_its"].to_numpy()}


def rejects(stage: Stage) -> dict[str, np.ndarray]:
    """Of a part, in the order of the source: ``place`` and ``row`` of those that nearly repeat a measured row, its
    ``other``, the most similar one, and their ``similarity``.
    """
    pieces = []
    for number in range(stage.of):
        table = parts.load_columns(parts.file_of(stage.root, number, candidates.__name__))
        inside = slice(*np.searchsorted(table["mine"] >> PLACE_BITS, [stage.number, stage.number + 1]))
        pieces.append(np.stack([table["its"][inside], table["mine"][inside]]))
    its, mine = np.unique(np.concatenate(pieces, axis=1), axis=1)
    part, other, place = its >> PLACE_BITS, its % (1 << PLACE_BITS), mine % (1 << PLACE_BITS)
    stored = stage.rows(stage.number)
    similar, row = np.zeros(len(its)), stored["row"][place]
    step = 1 + COMPARED // (1 + len(stored["codes"]) // max(1, len(stored["row"])))
    for number in np.unique(part):
        pairs = np.flatnonzero(part == number)
        for some in np.split(pairs, range(step, len(pairs), step)):
            similar[some] = similarity(stage.shingles(stage.number, place[some]), stage.shingles(number, other[some]))
        other[pairs] = stage.rows(number)["row"][other[pairs]]
    order = np.lexsort((other, -similar, row))
    order = order[similar[order] >= LEAST]
    order = order[np.unique(row[order], return_index=True)[1]]
    return {"place": place[order], "row": row[order], "other": other[order], "similarity": similar[order]}


def similarity(*texts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """float64: the Jaccard index of each of some texts with its counterpart; ``Stage.shingles`` of both sides."""
    sides = []
    for hashes, offsets in texts:
        number = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        sides.append(np.unique(number << 43 | (hashes >> 21).astype(np.int64)))
    every = np.sort(np.concatenate(sides))
    total, both = (
        np.bincount(some >> 43, minlength=number[-1] + 1) for some in (every, every[1:][np.diff(every) == 0])
    )
    return both / (total - both)


def leave_out(assigned: AssignedParts, observed: dict[str, Any], workers: Workers, screen: Screen) -> AssignedParts:
    """The assignments without the rows that nearly repeat a measured one. They are listed in a file of the dataset, and
    counted as dropped in ``observed``, that of ``Assignment``.
    """
    import pandas as pd

    folder, num_rows = assigned.work / "near", assigned.num_labelled + assigned.num_unlabelled
    ranges = -(-num_rows * BANDS // RANGE_BANDS)
    for table, of in ((bands, assigned.num_parts), (candidates, ranges), (rejects, assigned.num_parts)):
        shared = partial(Stage, assigned.hash, folder, size=num_rows // of, table=table, assigned=assigned, of=ranges)
        tasks = (shared(folder / f"{number:06d}-{table.__name__}.json", number=number) for number in range(of))
        with engine.shown("near-duplicates", num_rows, screen.quiet) as progress:
            deque(engine.run(tasks, workers, progress), 0)
    result = replace(assigned, table="assigned-apart")
    label_rows, rejected, path = observed["labels"][TRAIN_NUMBER], [], assigned.work.parent / NEAR_DUPLICATES
    for number in range(assigned.num_parts):
        rejects_of_part = parts.read_batch(parts.file_of(folder, number, rejects.__name__)).drop_columns(["place"])
        rejected.append(rejects_of_part.to_pandas())
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
