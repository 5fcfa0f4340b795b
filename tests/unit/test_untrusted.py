# SPDX-License-Identifier: Apache-2.0
"""Untrusted files: what is accepted, and the messages of refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import MOST_DEPTH, parse_json, read_json, shown

BAD = {
    b"NaN": "NaN is no number",
    b"1e999": "the number 1e999 is too large",
    b"18446744073709551616": "is too large",
    b'{"a": 1, "b": {"c": 1, "c": 2}}': "the key 'c' occurs twice",
    b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1): "more than 32 deep",
    b'{"a":' * 500 + b"1" + b"}" * 500: "more than 32 deep",
    rb'"\ud800"': "surrogates not allowed",
    b'"\xff"': "can't decode byte 0xff",
    b"{} x": "Extra data",
}


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_strict_json_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=BAD[data]):
        parse_json(data)


def test_what_is_strict_json_is_read() -> None:
    assert parse_json(rb'{"a": "\ud83d\ude00", "b": -9223372036854775808}') == {"a": "😀", "b": -(1 << 63)}
    assert parse_json(b"[" * MOST_DEPTH + b"]" * MOST_DEPTH) is not None


def test_no_more_bytes_than_expected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'"abcdefgh"')
    assert read_json(tmp_path / "file", "restore it", most=10) == "abcdefgh"
    with pytest.raises(DataError, match="10 bytes, where at most 9 are expected"):
        read_json(tmp_path / "file", "restore it", most=9)


def test_a_foreign_value_is_shown_short_and_harmless() -> None:
    assert shown("\x1b[31mred\u202e") == "'\\x1b[31mred\\u202e'"
    assert len(shown("x" * 1_000_000)) == 61
    assert shown(3) == "3"
