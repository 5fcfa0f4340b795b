# SPDX-License-Identifier: Apache-2.0
"""A dataset from a pandas frame: it is written as one Parquet file for the time of the job, which then reads that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base.atomic import temporary_folder
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.sources import standing_in
from preprocessing.dataset.shards import Manifest
from preprocessing.job import pipeline
from preprocessing.job.statistics import lines_on_rows
from preprocessing.text.unicode import encode

if TYPE_CHECKING:
    import pandas as pd

FRAME = "frame"
"""What sentences and manifests call a frame, and what ``source.path`` is then."""
GROUP_ROWS = 16384


def prepare(frame: pd.DataFrame, config: PreprocessConfig) -> Manifest:
    """Build the dataset of a frame; ``config.source.path`` is ``FRAME``. Its rows are numbered from 1 in their order.

    Raises what ``pipeline.build`` does, and ``StorageError`` where the frame cannot be written to the temporary folder.
    """
    with temporary_folder() as folder:
        path = folder / "frame.parquet"
        pq.write_table(table_of(frame), path, row_group_size=GROUP_ROWS, compression="lz4")
        with standing_in(FRAME, str(path)):
            return run(config)


def run(config: PreprocessConfig) -> Manifest:
    """``pipeline.build`` for a caller whose script is not to run again in each worker process."""
    with without_main():
        manifest = pipeline.build(config)
    for line in lines_on_rows(manifest):
        Screen().say(line)  # a notebook shows what goes to stderr as a warning
    return manifest


@contextmanager
def without_main() -> Iterator[None]:
    """Let processes start without the script of the caller: they need nothing of it, and it may not be guarded."""
    caller = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = caller


def table_of(frame: pd.DataFrame) -> pa.Table:
    """The columns of a frame, without its index. Values of mixed kinds become texts, as they would in a CSV file."""
    columns = [column_of(frame.iloc[:, place]) for place in range(len(frame.columns))]
    return pa.Table.from_arrays(columns, names=[str(name) for name in frame.columns])


def column_of(values: Any) -> pa.Array | pa.ChunkedArray:
    """One column: as Arrow understands it, else as texts."""
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowException, ValueError, TypeError):  # of several kinds, or with half a character
        texts = [None if missing(value) else encode(str(value)).decode() for value in values]
        return pa.array(texts, pa.large_string())


def missing(value: Any) -> bool:
    """Whether a cell is empty: None, or what is not equal to itself (NaN, NaT)."""
    return value is None or (isinstance(value, float) and value != value)
