# SPDX-License-Identifier: Apache-2.0
"""Arrays of segments of unequal length (segment i is ``values[offsets[i]:offsets[i + 1]]``); NumPy and Arrow files.

An Arrow IPC *file* is an IPC *stream* between a magic word and a footer with the offsets of its messages. A footer may
hold wrong offsets, so ``record_batches`` reads the stream.
See https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from padless.core import atomic
from padless.core.randomness import splitmix64
from padless.core.untrusted import open_regular


def take(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments ``rows``, one after the other, and their offsets (int64 ``[rows + 1]``)."""
    segments = pa.LargeListArray.from_arrays(offsets, values).take(pa.array(rows))
    return segments.flatten().to_numpy(), segments.offsets.to_numpy()


def pad_segments(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
    """``[segments, width]``: each segment with zeros after it. No segment may be longer than ``width``."""
    lengths = np.diff(offsets)
    result = np.zeros((len(lengths), width), values.dtype)
    result[np.arange(width) < lengths[:, None]] = values
    return result


def unpad_segments(rows: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments of ``[segments, width]``, each of its length, one after the other, and their offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return rows[np.arange(rows.shape[1]) < lengths[:, None]], offsets


def segment_hashes(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 per segment of uint64 values: a sum over them, each weighted by its position, and their number."""
    sizes = np.diff(offsets)
    position = np.arange(len(values)) - np.repeat(offsets[:-1], sizes)
    weights = splitmix64(np.arange(int(sizes.max(initial=1)), dtype=np.uint64)) | np.uint64(1)
    return splitmix64(segment_sums(values * weights[position], offsets) + sizes.astype(np.uint64))


def segment_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[segments]``: the sum of each segment of uint64 values, modulo 2**64; segments may be empty."""
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]


MAGIC = b"ARROW1\0\0"


def write_batch(path: str | Path, columns: Any, schema: pa.Schema | None = None, *, lasting: bool = True) -> None:
    """Write columns atomically as one record batch of an Arrow file, which can be mapped; ``lasting`` as in
    ``atomic.replacing``. Raises ``OSError``.
    """
    batch = pa.record_batch(columns, schema=schema)
    with (
        atomic.replacing(Path(path), lasting=lasting) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def read_batch(path: str | Path) -> pa.RecordBatch:
    """A file of ``write_batch``, mapped."""
    with open(path, "rb") as file:  # pa.memory_map reads all pages at once; small ranges of many files are read
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)


def map_file(path: str | Path) -> Any:
    """Memory-map a regular file. Raises ``DataError``, ``OSError``."""
    open_regular(path).close()
    return pa.memory_map(str(path))


def record_batches(source: Any) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and record batches of an Arrow file, without a copy, so they are no larger than the file.

    ``source`` is a ``pyarrow`` file. The buffers are checked against the lengths of the arrays. Raises ``ValueError``
    or ``pyarrow.ArrowException`` for another file, and for compressed batches.
    """
    buffer = source.read_buffer()
    if buffer.slice(0, min(len(MAGIC), buffer.size)).to_pybytes() != MAGIC:
        raise ValueError("it does not begin like an Arrow file")
    reader = pa.ipc.open_stream(pa.BufferReader(buffer.slice(len(MAGIC))))
    batches = list[pa.RecordBatch]()
    for batch in reader:
        batch.validate()
        batches.append(batch)
        buffers = [data for column in batch.columns for data in column.buffers() if data]
        if not all(buffer.address <= data.address < buffer.address + buffer.size for data in buffers):
            raise ValueError("it holds compressed rows, which cannot be mapped")
    return reader.schema, batches
