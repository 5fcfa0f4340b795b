# SPDX-License-Identifier: Apache-2.0
"""Arrow files that a stranger may have written, and what Arrow answers in more than one form, in one.

An Arrow IPC *file* is an IPC *stream* between a magic word and a footer that says where the stream's messages are. A
footer may point anywhere, so the stream itself is read: its messages are looked at one after the other before any of
them is unpacked. See https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format and Message.fbs there.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa

from preprocessing.base.untrusted import open_regular

MAGIC = b"ARROW1\0\0"
DICTIONARY, RECORDS = 2, 3
"""Kinds of messages, as ``MessageHeader`` numbers them."""


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece. Arrow's ``combine_chunks`` alone may return a chunked array again."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not isinstance(combined, pa.ChunkedArray):
        return combined
    return combined.chunk(0) if combined.num_chunks else pa.array([], combined.type)


def mapped(path: str | Path) -> Any:
    """A regular file as pages that come in when they are touched. Raises ``DataError``, ``OSError``."""
    open_regular(path).close()
    return pa.memory_map(str(path))


def record_batches(source: Any) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and record batches of an Arrow file; nothing is copied, so they are no larger than the file.

    ``source`` is a ``pyarrow`` file. Every array has the buffers that its length needs, and dictionaries are short
    enough for their indices. Raises ``ValueError`` or ``pyarrow.ArrowException`` for what is no such file, and for
    batches that are compressed.
    """
    whole = source.read_buffer()
    if whole.slice(0, min(len(MAGIC), whole.size)).to_pybytes() != MAGIC:
        raise ValueError("it does not begin as an Arrow file does")
    stream = whole.slice(len(MAGIC))
    counts = [rows_of(message) for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(stream))]
    found = [rows for rows in counts if rows is not None]
    if len(found) > 1 and 0 in found:
        raise ValueError("it holds record batches without rows")
    reader = pa.ipc.open_stream(pa.BufferReader(stream))
    batches = list(reader)
    for batch in batches:
        batch.validate()
    return reader.schema, batches


def rows_of(message: Any) -> int | None:
    """The rows that a message of a stream says to hold; None if it holds none. Raises ``ValueError`` if compressed."""
    data = message.metadata.to_pybytes()
    root = _follow(data, 0)
    kind, header = _field(data, root, 1), _field(data, root, 2)
    kind = data[kind] if kind is not None else 0
    if header is None or kind not in (DICTIONARY, RECORDS):
        return None
    records: int | None = _follow(data, header)
    if kind == DICTIONARY:
        inner = _field(data, _follow(data, header), 1)
        records = None if inner is None else _follow(data, inner)
    if records is None:
        return None
    if _field(data, records, 3) is not None:
        raise ValueError("its record batches are compressed, which cannot be mapped")
    length = _field(data, records, 0)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    return int(rows) if kind == RECORDS else None


def _follow(data: bytes, at: int) -> int:
    """Where the reference at a place leads (FlatBuffers)."""
    return int(at + struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table lies; None if it is at its default. Arrow has checked that all of it is inside."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, layout)[0]:
        return None
    offset = struct.unpack_from("<H", data, layout + 4 + 2 * number)[0]
    return table + offset if offset else None
