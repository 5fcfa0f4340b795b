# SPDX-License-Identifier: Apache-2.0
"""Record ends in CSV and JSON lines: Python's csv module is the judge."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preprocessing.base.errors import DataError
from preprocessing.corpus import records
from preprocessing.corpus.records import Cut, Dialect, cuts

COMMA = Dialect(",", '"')
FIELDS = st.text(st.sampled_from('ab",\n;é \\'), max_size=8)


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def rows_by_csv(data: bytes, **dialect: object) -> int:
    return sum(1 for row in csv.reader(io.StringIO(data.decode(), newline=""), **dialect) if row)


@given(
    st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=12), st.integers(1, 40), st.integers(1, 60), st.booleans()
)
def test_every_cut_is_whole_records_and_none_is_lost(
    rows: list[tuple[str, str]], piece: int, part_bytes: int, windows: bool
) -> None:
    written = io.StringIO()
    csv.writer(written, lineterminator="\r\n" if windows else "\n").writerows(rows)
    data = written.getvalue().encode()
    found = list(cuts(in_pieces(data, piece), COMMA, part_bytes, "x.csv"))
    assert [cut.start for cut in found] == [0, *(cut.stop for cut in found[:-1])]
    assert found[-1].stop == len(data)
    numbers = [number for cut in found for number in range(cut.first_row, cut.first_row + cut.rows)]
    assert numbers == list(range(1, len(rows) + 1))
    for cut in found:
        assert rows_by_csv(data[cut.start : cut.stop]) == cut.rows


@given(st.text(st.sampled_from('ab",\n'), max_size=30), st.integers(1, 12), st.integers(1, 12))
@example('5" disk,1\nx,2\n', 3, 1)
@example('"a"b\nc",d\n', 5, 1)
def test_quotes_in_mid_field_are_text(content: str, piece: int, part_bytes: int) -> None:
    data = content.encode()
    try:
        expected = rows_by_csv(data, strict=False)
        whole = content.endswith("\n") and "\x00" not in content and not unclosed(content)
    except csv.Error:
        return
    if whole:
        assert sum(cut.rows for cut in cuts(in_pieces(data, piece), COMMA, part_bytes, "x.csv")) == expected


def unclosed(content: str) -> bool:
    """Whether the last record opens a quote that never closes: appending a line then changes no number of rows."""
    more = content + "z\nz\n"
    return rows_by_csv(more.encode()) != rows_by_csv(content.encode()) + 2


@given(
    st.lists(st.text(st.sampled_from("ab\\,;\n"), min_size=1, max_size=6), min_size=1, max_size=8), st.integers(1, 9)
)
def test_an_escape_character_makes_the_next_one_text(texts: list[str], piece: int) -> None:
    written = io.StringIO()
    writer = csv.writer(
        written, delimiter=";", quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\", lineterminator="\n"
    )
    writer.writerows([[text, "1"] for text in texts])
    data = written.getvalue().encode()
    found = list(cuts(in_pieces(data, piece), Dialect(";", '"', "\\"), 1, "x.csv"))
    assert sum(cut.rows for cut in found) == len(texts)


def test_the_header_is_no_row_and_blank_lines_are_none() -> None:
    data = b"\n\ntext,label\n\na,1\r\n\r\nb,2\n\n"
    found = [cut for cut in cuts([data], COMMA, 1, "x.csv", header=True) if cut.rows]
    assert found == [Cut(14, 19, 1, 1), Cut(21, 25, 2, 1)]


def test_the_last_line_needs_no_line_end() -> None:
    assert list(cuts([b"a,1\nb,2"], COMMA, 1000, "x.csv")) == [Cut(0, 7, 1, 2)]


def test_an_open_quote_is_named_by_its_row() -> None:
    with pytest.raises(DataError, match=r"^x.csv: row 2: a quote opens and never closes"):
        list(cuts([b'text,label\na,1\n"b,2\nc,3\n'], COMMA, 1000, "x.csv", header=True))


def test_a_record_of_any_length_up_to_the_limit_is_one(monkeypatch) -> None:
    """A long one is told from a quote that never closes, which is known at the end of the file alone."""
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1 << 20)
    pieces = [b"text,label\na,1\n", *[b"x" * 1000] * 1040, b",0\n"]
    assert [cut.rows for cut in cuts(pieces, COMMA, 1, "x.csv", header=True)] == [1, 1]
    with pytest.raises(DataError, match=r"^x.csv: row 2: is longer than 1 MiB; split its text$"):
        list(cuts([*pieces[:-1], *[b"x" * 1000] * 10, b",0\n"], COMMA, 1000, "x.csv", header=True))


def test_a_json_line_ends_at_its_newline_whatever_its_quotes() -> None:
    data = b'{"text": "a\\"b"}\n{"text": "c"}\n'
    assert [cut.rows for cut in cuts([data], Dialect(), 1, "x.jsonl")] == [1, 1]
