# SPDX-License-Identifier: Apache-2.0
"""A folder of text files: each file is one text, and beside it stands its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from harness.inference.pieces import CHUNK_BYTES, CHUNK_ROWS, Piece, Source, Wanted
from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses, forms

FILE = "file"


class FolderTable:
    """The text files ``start`` to ``stop`` of a list."""

    kind = "folder"

    def __init__(self, source: Source, wanted: Wanted, facts: dict[str, Any]) -> None:
        """``facts["files"]`` are the addresses; the texts get the last of the wanted names."""
        self.source, self.wanted = source, wanted
        self.files: list[str] = facts["files"]
        self.names = [FILE, wanted.columns[-1]]

    def facts(self) -> dict[str, Any]:
        """Every file."""
        return {"files": self.files}

    def pieces(self) -> Iterator[Piece]:
        """All texts, some at a time."""
        names: list[str] = []
        texts: list[str] = []
        size = 0
        for address in self.files[self.source.start : self.source.stop]:
            content = b"".join(addresses.stream(address))
            try:
                text = forms.plain(content, address, self.source.encoding).decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{address}: byte {error.start} is not UTF-8; mend the file") from None
            if not text and not self.wanted.missing:
                raise DataError(f"{address}: holds no text; remove it, or set --missing keep")
            names.append(address.removeprefix(self.source.name).lstrip("/"))
            texts.append(text)
            size += len(content)
            if len(texts) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield self.piece(names, texts)
                names, texts, size = [], [], 0
        if texts:
            yield self.piece(names, texts)

    def piece(self, names: list[str], texts: list[str]) -> Piece:
        """Some rows."""
        return Piece(texts, [], pa.record_batch([pa.array(names), pa.array(texts, pa.large_string())], self.names))

    def values(self, piece: Piece) -> pa.Table:
        """The names of the files, and their texts."""
        return pa.Table.from_batches([piece.batch])
