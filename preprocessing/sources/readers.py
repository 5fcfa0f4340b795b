# SPDX-License-Identifier: Apache-2.0
"""Opens the reader of each format; that of folders of texts is here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from padless.core.errors import DataError
from preprocessing.labels import AUTO
from preprocessing.sources import addresses
from preprocessing.sources.batches import BYTES, FOLDER_SPLIT, PATH, Reader, SourceBatch
from preprocessing.sources.json_records import JsonReader
from preprocessing.sources.parquet import ParquetReader
from preprocessing.sources.sources import File, FolderText, list_texts
from preprocessing.sources.text_files import (
    MAX_ROW_BYTES,
    CsvReader,
    LineReader,
    convert_to_utf8,
    find_encoding,
)

BATCH_TEXTS = 256
"""Texts of a folder in a batch."""


def open_reader(file: File) -> Reader:
    """The reader for a file, which has looked at its beginning.

    Raises ``DataError`` for an unknown encoding, a file without columns, and a damaged one.
    """
    if file.format in ("folder", "txt") and len(file.source.text_columns) > 1:
        raise DataError(f"{file.name}: holds texts without columns; leave out source.text_column")
    if file.format == "parquet":
        return ParquetReader(file)
    if file.format == "folder":
        return FolderReader(file)
    line_reader = {"csv": CsvReader, "jsonl": JsonReader, "txt": LineReader}[file.format]
    return line_reader(file, addresses.iter_bytes(file.address))


class FolderReader(Reader):
    """Texts of a folder: columns of text, label, split and path."""

    def __init__(self, file: File) -> None:
        text, label = file.source.text_columns[0].replace(AUTO, "text"), file.source.label_column.replace(AUTO, "label")
        super().__init__(file, [text, label, FOLDER_SPLIT, PATH])

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """All columns. Raises ``DataError`` as ``read_text`` does."""
        file, schema = self.file, pa.schema(dict.fromkeys(self.columns, BYTES))
        texts = list_texts(file)
        for start in range(0, len(texts), BATCH_TEXTS):
            rows = [
                (read_text(file, text), text.label, file.split or text.split or "", text.path)
                for text in texts[start : start + BATCH_TEXTS]
            ]
            table = pa.table([*zip(*rows, strict=True)], schema=schema)
            yield SourceBatch(file, np.arange(start + 1, start + 1 + len(table)), table)


def read_text(file: File, text: FolderText) -> bytes:
    """A text of a folder as UTF-8. Raises ``DataError`` for one in another encoding, and a long one."""
    if text.info.bytes > MAX_ROW_BYTES:
        raise DataError(f"{text.address}: has more than {MAX_ROW_BYTES >> 20} MiB; shorten it")
    content = addresses.read_address(text.address, text.info.bytes)
    encoding = find_encoding(content, file.source, text.address)
    return b"".join(convert_to_utf8([content], encoding, text.address))
