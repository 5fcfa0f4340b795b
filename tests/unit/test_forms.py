# SPDX-License-Identifier: Apache-2.0
"""However a corpus is written down, the same rows are read, and what differs from the usual is said."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessing.base.errors import DataError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.forms import LATIN, encoding_of
from preprocessing.corpus.forms import dialect_of as recognised
from preprocessing.corpus.records import Dialect, cuts
from preprocessing.corpus.rows import read
from preprocessing.corpus.sources import files, numbered, scan

WORDS = [
    "film",
    "great",
    "5, or 6; it's",
    'a "quoted" word',
    "two\nlines",
    "tab\there",
    "bar|bar",
    "café",
    "Müller",
    "“so”",
]
SEPARATORS = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"
"""What Python takes for ends of lines, and what ends no line here."""


def read_all(path: Path, **options: object) -> tuple[list[tuple[str, str]], list[str]]:
    """Texts and labels of a source, and what was said of it."""
    with tempfile.TemporaryDirectory() as stage:
        found = resolved(list(files(SourceConfig(path=str(path), **options), SplitConfig())))
        pieces = [read(part) for part in numbered([scan(file, Path(stage)) for file in found.files])]
    rows = [
        (text, piece.classes[label])
        for piece in pieces
        for text, label in zip(piece.texts.to_pylist(), piece.label, strict=True)
    ]
    return rows, found.lines


def as_csv(rows: list[tuple[str, str]], delimiter: str, line_end: str, **more: object) -> str:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter, lineterminator=line_end, **more)
    writer.writerows([("text", "label"), *rows])
    return written.getvalue()


CORPUS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).map(" and ".join), st.sampled_from("xy")),
    min_size=3,
    max_size=12,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    CORPUS,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-32"]),
    st.sampled_from([0.0001, 8.0]),
)
def test_delimiter_line_end_and_encoding_are_recognised(
    rows: list[tuple[str, str]], delimiter: str, line_end: str, encoding: str, part_mb: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        quoting = csv.QUOTE_ALL if line_end == "\r" else csv.QUOTE_MINIMAL  # a bare newline there would be ambiguous
        path.write_bytes(as_csv(rows, delimiter, line_end, quoting=quoting).encode(encoding))
        found, said = read_all(path, part_mb=part_mb)
        assert found == rows
        assert ("fields end at" in "".join(said)) == (delimiter != ",")
        assert ("carriage returns" in "".join(said)) == (line_end == "\r")
        assert ("read as utf-16" in "".join(said)) == encoding.startswith("utf-16")
        lines = "".join(
            json.dumps({"text": text, "label": label}, ensure_ascii=False) + line_end for text, label in rows
        )
        path = path.with_suffix(".jsonl")
        path.write_bytes(lines.encode(encoding))
        assert read_all(path, part_mb=part_mb)[0] == rows


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_valid_utf8_is_utf8(text: str) -> None:
    data = text.encode("utf-8", "ignore").replace(b"\0", b"")
    assert encoding_of(data, "x") == "utf-8"
    assert encoding_of(data[:-1], "x") == "utf-8"  # the last character may be cut


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
def test_lines_end_at_newlines_and_nowhere_else(kind: str, tmp_path: Path) -> None:
    rows = [(f"{number} {SEPARATORS}", "xy"[number % 2]) for number in range(4)]
    path = tmp_path / f"a.{kind}"
    if kind in ("csv", "tsv"):
        path.write_text(as_csv(rows, "," if kind == "csv" else "\t", "\n"), newline="")
    elif kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
        )
    elif kind == "parquet":
        pq.write_table(pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]}), path)
    else:
        for number, (text, label) in enumerate(rows):
            (path / label).mkdir(parents=True, exist_ok=True)
            (path / label / f"{number}.txt").write_text(f"\ufeff{text}")
    assert sorted(read_all(path)[0]) == rows


def test_a_carriage_return_within_a_line_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\r\none \r film,x\r\n"two\r\nlines\rof",y\r\n\x01 three\r\r\nfour\r"x",x\r\nfive,y\r')
    with pytest.raises(DataError, match="row 3: 1 fields, the header has 2"):
        read_all(path)
    path.write_bytes(path.read_bytes().replace(b"three\r\r\n", b"three,x\r\r\n"))
    assert read_all(path)[0] == [
        ("one \r film", "x"),
        ("two\r\nlines\rof", "y"),
        ("\x01 three", "x"),
        ('four\r"x"', "x"),
        ("five", "y"),
    ]
    assert read_all(path, part_mb=1e-6)[0] == read_all(path)[0]


def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: Path) -> None:
    for content in (b'\xef\xbb\xbf"text","label"\n"two\nlines",x\n', b'\xef\xbb\xbf"two\nlines",x\n'):
        (tmp_path / "a.csv").write_bytes(content)
        columns = [] if b"text" in content else ["text", "label"]
        assert read_all(tmp_path / "a.csv", columns=columns)[0] == [("two\nlines", "x")]
    found = list(cuts([b"\xef", b"\xbb\xbfa", b",1\n"], Dialect(",", '"'), 1, "x", mark=3))
    assert [(cut.start, cut.stop, cut.rows) for cut in found] == [(3, 7, 1)]


def test_what_one_byte_a_letter_can_tell() -> None:
    assert encoding_of("naïve café — “so”".encode("cp1252"), "x") == LATIN
    assert encoding_of(("café " * 50).encode() + b"caf\xe9", "x") == "utf-8"  # one damaged row
    for text, name in (
        ("Это прекрасный фильм", "cp1251"),
        ("żółty pająk mówił że ładny", "cp1250"),
        ("Это прекрасный фильм", "koi8-r"),
    ):
        with pytest.raises(DataError, match=r"neither UTF-8 nor Latin-1; set source\.encoding"):
            encoding_of(text.encode(name), "x")


def test_a_configured_encoding_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nЭто фильм,да\nне фильм,нет\n".encode("cp1251"))
    assert read_all(tmp_path / "a.csv", encoding="windows-1251")[0] == [("Это фильм", "да"), ("не фильм", "нет")]
    (tmp_path / "f" / "x").mkdir(parents=True)
    (tmp_path / "f" / "x" / "1.txt").write_bytes("Это фильм".encode("cp1251"))
    assert read_all(tmp_path / "f", encoding="cp1251")[0] == [("Это фильм", "x")]
    (tmp_path / "f" / "x" / "1.txt").write_bytes(b"a fine caf\xe9 in Paris")
    assert read_all(tmp_path / "f")[0] == [("a fine café in Paris", "x")]


def test_quotes_and_backslashes_that_comma_and_quote_cannot_explain() -> None:
    expected = Dialect(",", '"')
    cases = {
        b'text,label\n"he said \\"a, b\\"",1\n"x",2\n': Dialect(",", '"', "\\"),
        b'text\tlabel\n"never closed\t1\na disk\t2\n': Dialect("\t", ""),
        b'text,label\n"never closed,1\nb,2\n': expected,
        b"text,label\na,b,1\nc,2\n": expected,
        b"text;label,gold\na;1\n": Dialect(";", '"'),
    }
    for sample, dialect in cases.items():
        assert recognised(sample, expected, fixed=False, whole=True) == dialect, sample
    assert recognised(b"a;b\nc;d\n", expected, fixed=True, whole=True) == expected


@pytest.mark.parametrize("categories", [["x", "y"], [3, 1], [True, False], [1.0, 2.0]])
def test_parquet_as_pandas_writes_categories(categories: list[object], tmp_path: Path) -> None:
    number = 1500  # several batches, and categories of texts with gaps in their codes
    frame = pd.DataFrame({"text": pd.Categorical([f"text number {at % 700}" for at in range(number)])})
    frame["label"] = pd.Categorical(np.array(categories, object)[np.arange(number) % 2], categories=categories[::-1])
    frame[frame.index % 7 > 0].to_parquet(tmp_path / "a.parquet", index=True)
    kept = frame[frame.index % 7 > 0]
    names = [f"{value:g}" if isinstance(value, float) else str(value).lower() for value in kept["label"]]
    for part_mb in (8.0, 0.001):
        found = read_all(tmp_path / "a.parquet", part_mb=part_mb)[0]
        assert found == list(zip(kept["text"].astype(str), names, strict=True))
