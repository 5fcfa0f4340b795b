# SPDX-License-Identifier: Apache-2.0
"""Of which format a file is: as configured, as its name says, or as its first bytes do."""

from __future__ import annotations

from pathlib import Path

from preprocessing.base.errors import ConfigError
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses, encodings
from preprocessing.corpus.forms import BYTE_ORDER_MARK

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
SHEETS = (".xlsx", ".xls", ".ods")
MARKS = tuple(mark for mark, _ in encodings.MARKS)


def format_of(address: str, source: SourceConfig) -> str:
    """The configured format, or the one that the name tells."""
    if source.format != "auto":
        return source.format
    suffix = Path(uncompressed(address)).suffix
    known = SUFFIXES.get(suffix) or told_by_content(next(addresses.stream(address), b"")[:1024])
    if known is None:
        sheet = "; write the sheet as CSV first" if suffix in SHEETS else "; set csv, jsonl, parquet or folder"
        raise ConfigError(f"source.format: auto cannot tell what {address} holds{sheet}")
    return known


def told_by_content(first: bytes) -> str | None:
    """The format of a file whose name says nothing, from its first bytes; None where they are no text."""
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(MARKS):
        return "csv"
    if not first or b"\0" in first or first.startswith(b"PK"):
        return None
    return "jsonl" if first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{") else "csv"


def uncompressed(address: str) -> str:
    """An address in lower case, without the ending that says how it is compressed."""
    name = addresses.without_query(address).lower()
    for suffix in addresses.COMPRESSED:
        name = name.removesuffix(suffix)
    return name
