# SPDX-License-Identifier: Apache-2.0
"""Files of texts as people and programs get them wrong: read for a dataset, and for predictions, or refused.

Another byte in a text is another text, so what is read may be anything but a fault; the undamaged file is read whole.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from harness.inference.rows import find, texts_of, values_of
from harness.rundir.bundle_files import Reading
from preprocessing.base.errors import DataError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import sources, tables
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.rows import read
from tests.corpora import write_csv, write_jsonl, write_xlsx
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import NASTY, Damage, byte_damages
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.thorough

TEXTS = [f'the film no. {number} was "fine", café {number * 7919}\nand é {number}' for number in range(24)]
LABELS = [("good", "bad")[number % 2] for number in range(24)]
WORDS = (*["the", "film", "good", "é", "日本", "text", "label", "train", "0", "-1", "1e999"], "")
SIGNS = (",", ";", "\t", "|", '"', "'", "\\", "\n", "\r\n", "\r", "\0", "\ufeff", "\x1b[2J", "\u2028", "\x0b", "#")
FIELDS = ("a fine film", '"a, b"', '"a ""b"""', '"open', 'sh"ut"')
HEADERS = ("text,label\n", "text\tlabel\n", "", "text,text\n", '"text","label"\r\n', "text\n", "label,text\r")
BROKEN = ('{"text": "a"', '{"text": "a", "text": "b", "label": 1}', "[", "{", "}", "[" * 90_000, '{"a":' * 900)


def write(kind: str, path: Path) -> None:
    """An undamaged file."""
    rows = list(zip(TEXTS, LABELS, strict=True))
    if kind == "parquet":
        table = pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode(), "n": list(range(24))})
        pq.write_table(table, path, row_group_size=10)
    elif kind == "jsonl":
        write_jsonl(path, rows)
    elif kind == "json":
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in rows], indent=1))
    elif kind == "xlsx":
        write_xlsx(path, [("text", "label"), *rows])
    else:
        write_csv(path, rows)
        packed = {"utf16.csv": path.read_text().encode("utf-16"), "csv.gz": gzip.compress(path.read_bytes(), mtime=0)}
        path.write_bytes(packed.get(kind, path.read_bytes()))


KINDS = ("csv", "utf16.csv", "jsonl", "json", "csv.gz", "parquet", "xlsx")


def dataset_rows(path: Path) -> list[str]:
    """Texts as preprocessing reads them, and their labels and splits."""
    texts = []
    for file in resolved(list(sources.files(SourceConfig(path=str(path)), SplitConfig()))).files:
        for part in sources.numbered([sources.scan(file, path.parent)]):
            piece = read(part)
            assert all(label < len(piece.classes) for label in piece.label.tolist())
            texts += piece.texts.to_pylist()
    return texts


def prediction_rows(path: Path) -> list[str]:
    """Texts as predict reads them, and all other columns."""
    texts = []
    for file in find([str(path)], "auto", SourceConfig(), Reading(SourceConfig()), path.parent):
        for part in sources.scan(file, path.parent).parts:
            for rows in tables.iter_rows(part):
                texts += texts_of(part, rows, missing=True)
                assert len(values_of(part, rows)) == len(rows.table)
    return texts


READERS = {"dataset": dataset_rows, "prediction": prediction_rows}


def lines_of(kind: str) -> st.SearchStrategy[Damage]:
    """Files of words and signs that mean something to the reader, in any order."""
    pieces = st.sampled_from((*WORDS, *SIGNS))
    if kind == "jsonl":
        values = st.sampled_from(NASTY)
        record = st.builds('{{"text": {}, "label": {}}}'.format, values, values)
        fair = st.just('{"text": "a fine film", "label": "good"}')
        lines = st.lists(st.one_of(record, fair, st.sampled_from(BROKEN), pieces), max_size=12)
        return lines.map(lambda drawn: as_damage("\n".join(drawn)))
    rows = st.lists(st.one_of(pieces, st.sampled_from(FIELDS)), min_size=3, max_size=60)
    return st.builds(
        lambda header, row: as_damage(header + ",".join(row[:3]) + "".join(row[3:])), st.sampled_from(HEADERS), rows
    )


def as_damage(text: str) -> Damage:
    """A file that was never whole."""
    return Damage(repr(text[:200]), text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_rows_are_read_or_refused(reader: str, kind: str, tmp_path: Path, fuzz: Fuzz) -> None:
    whole, read_rows = tmp_path / f"rows.{kind}", READERS[reader]
    write(kind, whole)
    data = whole.read_bytes()
    assert read_rows(whole) == TEXTS

    def check(damage: Damage) -> str:
        whole.write_bytes(damage.data)
        return outcome(partial(read_rows, whole), lambda found: all(isinstance(text, str) for text in found))

    made = [] if kind in ("json", "parquet", "csv.gz", "utf16.csv", "xlsx") else [lines_of(kind)]
    assert fuzz(st.one_of(byte_damages(data), *made), check)["refused"] > 0


def many_columns(path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(1_000_000))
    path.write_text(f"text,label,{names}\na,b,{names}\n")


def bomb(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as packed:
        packed.write(b"text,label\n")
        for _ in range(4):
            packed.write(b"a fine film,good\n" * (1 << 19))


def repeated(path: Path) -> None:
    """One text in every row: a dictionary, and how often its only word follows."""
    column = pa.DictionaryArray.from_arrays(np.zeros(186_000, np.int8), ["a" * 1_000_000])
    pq.write_table(pa.table({"text": column, "label": column}), path, compression="zstd", store_schema=False)


def long_line(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"text,label\n")
        file.truncate(2 << 30)


FAR_AWAY = '<row r="999999999999"><c r="A999999999999"><v>1</v></c></row>'
HOPELESS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a million columns": ("a.csv", many_columns, "a.csv: has more than 16,384 columns"),
    "a .zst without end": ("a.csv.zst", bomb, "and perhaps more, over 200 times as many; if they are texts"),
    "186 GB of Parquet": (
        "a.parquet",
        repeated,
        "and perhaps more, over 200 times as many; if they are texts",
    ),
    "a cell far away": ("a.xlsx", partial(write_xlsx, rows=[], more=FAR_AWAY), "over 200 times as many"),
    "a sheet without end": ("a.xlsx", partial(write_xlsx, rows=[], more=" " * (17 << 20)), "over 200 times as many"),
    "a deep list": (
        "a.json",
        lambda path: path.write_text('[{"text": ' + "[" * 5_000_000),
        "a.json: row 1: not a JSON",
    ),
    "2 GB in a line": ("a.csv", long_line, "a.csv: row 1: is longer than 16 MiB; split its text"),
}


@pytest.mark.parametrize("what", HOPELESS)
def test_a_hopeless_file_is_refused_soon(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory, the disk or the day is full; the sentence says what it is, and nothing that it is not."""
    monkeypatch.setattr("preprocessing.corpus.records.MAX_RECORD_BYTES", 16 << 20)
    monkeypatch.setattr("preprocessing.base.untrusted.MOST_UNPACKED", 16 << 20)
    name, write_it, sentence = HOPELESS[what]
    write_it(tmp_path / name)
    said = []

    def read_it(read_rows: Callable[[Path], list[str]]) -> None:
        try:
            read_rows(tmp_path / name)
        except DataError as error:
            said.append(str(error))
            raise

    for read_rows in READERS.values():
        assert outcome(partial(read_it, read_rows), lambda _: False, tmp_path / name, seconds=60) == "refused"
    assert all(sentence in one and "quote" not in one for one in said)
