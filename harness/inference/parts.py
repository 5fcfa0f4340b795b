# SPDX-License-Identifier: Apache-2.0
"""One part: its rows read, encoded and scored, and written with what was predicted; its marker last.

What comes of a part depends on its rows and the plan alone. One thread reads and encodes while another scores.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.engines import open_scorer
from harness.inference.outputs import Columns
from harness.inference.pieces import Piece, Table
from harness.inference.plan import Plan
from harness.inference.scorer import Scorer, unknown_shares
from harness.inference.tables import open_output
from harness.scores.metrics import probabilities
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.storage import storing
from preprocessing.base.typed import Count, Sha256, typed
from preprocessing.base.untrusted import open_regular, read_json, sha256_of
from preprocessing.corpus import addresses

AGAIN = "it is made again"
SAMPLE = 32
"""Rows of a part that are also computed in fp32 where the others are not."""
AHEAD = 2
"""Pieces that are encoded before they are asked for."""
KEPT = threading.local()
"""The scorer of each thread, kept between parts."""


@dataclass(frozen=True)
class Opening:
    """How the weights are opened."""

    scorer: str
    run: str
    settled: dict[str, str]
    batch: int


@dataclass(frozen=True)
class Task:
    """One part of a plan."""

    number: int
    plan: Plan
    """Of this part alone."""
    key: str
    """That of the whole plan."""
    opening: Opening
    path: Path
    """The file to write."""
    marker: Path
    target: str
    """What sentences call the whole."""


@dataclass(frozen=True)
class Made:
    """What the marker of a part says."""

    key: str
    rows: Count
    bytes: Count
    sha256: Sha256
    header: Count
    """Bytes above the first row, which a joined file has once."""
    without_known_word: Count = 0
    """Texts of which no token is in the vocabulary."""
    difference: float | None = None
    """Where the arithmetic is not fp32: by how much a probability of some of the rows differs from that in fp32."""


def made(marker: Path, path: Path, key: str, *, thorough: bool = True) -> Made | None:
    """What is known of a part that is whole and belongs to the plan with this ``key``; None: it is to be made.

    ``thorough`` reads the part, too. Raises ``OSError`` where it cannot be read though it is there.
    """
    try:
        found = typed(Made, read_json(marker, AGAIN), str(marker), AGAIN)
        with open_regular(path) as file:
            if found.key != key or os.fstat(file.fileno()).st_size != found.bytes or found.header > found.bytes:
                return None
            digest = sha256_of(file) if thorough else found.sha256
            return found if digest == found.sha256 else None
    except (FileNotFoundError, DataError):
        return None


def scorer_of(opening: Opening) -> Scorer:
    """This thread's scorer: opened once, and kept from one part to the next."""
    kept: tuple[Opening, Scorer] | None = getattr(KEPT, "scorer", None)
    if kept is None or kept[0] != opening:
        kept = opening, open_scorer(opening.run, opening.scorer, opening.batch, opening.settled)
        KEPT.scorer = kept
    return kept[1]


def make(task: Task) -> Made:
    """Make a part. Raises ``DataError`` for what cannot be read, ``StorageError`` for what cannot be written."""
    scorer, plan = scorer_of(task.opening), task.plan
    check_unchanged(plan)
    table = plan.table(0)
    rows, unread, differences = 0, 0, list[float]()
    is_exact = task.opening.settled["precision"] == "fp32"
    with storing(task.target, otherwise="name another --output"):
        with atomic.replacing(task.path) as temporary:
            output = open_output(temporary, plan.kind, table, plan.names, same=plan.same)
            try:
                for piece, encoded in ahead(table, scorer):
                    output.write(piece, columns(scorer, encoded, plan.names) if piece.texts else {})
                    if not (is_exact or rows):
                        differences.append(difference(scorer, encoded[:SAMPLE]))
                    rows += len(piece.texts)
                    unread += int((unknown_shares(encoded) == 1).sum())
            finally:
                output.close()
        if rows != plan.parts[0].rows:
            raise DataError(f"{table.source.name}: {rows:,} rows where there were {plan.parts[0].rows:,}: it changed")
        size, digest = task.path.stat().st_size, atomic.sha256_file(task.path)
        done = Made(task.key, rows, size, digest, len(output.header), unread, max(differences, default=None))
        atomic.write_json(task.marker, vars(done))
    return done


def check_unchanged(plan: Plan) -> None:
    """Raise ``DataError`` if the file of a part is no longer the one that was looked at."""
    file = plan.files[0]
    if file.kind != "folder" and "sha256" not in file.identity:
        now = addresses.identity(file.source.name)
        if now != file.identity:
            raise DataError(f"{file.source.name}: it changed while it was read; start again when it is whole")


def ahead(table: Table, scorer: Scorer) -> Iterator[tuple[Piece, list[Any]]]:
    """Each piece with its ids; another thread reads and encodes the next ones meanwhile."""
    pieces = table.pieces()

    def step() -> tuple[Piece, list[Any]] | None:
        piece = next(pieces, None)
        return None if piece is None else (piece, scorer.encode(piece.texts))

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[Piece, list[Any]] | None]] = deque(pool.submit(step) for _ in range(AHEAD))
        # cannot hang: the next piece is read from a regular file and encoded
        while (found := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(step))
            yield found


def columns(scorer: Scorer, encoded: list[Any], names: list[str]) -> Columns:
    """What is predicted, by the names of the new columns."""
    return dict(zip(names, scorer.predict(encoded).values(), strict=True))


def difference(scorer: Scorer, encoded: list[Any]) -> float:
    """The greatest change of a probability of some texts against fp32."""
    here, exact = (
        probabilities(scorer.decision.calibrated(logits)) for logits in (scorer.score(encoded), scorer.exact(encoded))
    )
    return float(np.abs(here - exact).max())
