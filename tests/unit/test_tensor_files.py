# SPDX-License-Identifier: Apache-2.0
"""What a file of tensors says of itself is held against its length, before anything is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.rundir.tensor_files import check_tensors, read_header
from preprocessing.base.errors import DataError

WEIGHT = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
BIAS = {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]}


def write(path: Path, header: Any, size: int) -> Path:
    """A file with this header and so many bytes behind it."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * size)
    return path


def test_names_dtypes_and_shapes_are_read(tmp_path: Path) -> None:
    """Metadata is nobody's tensor."""
    header = {"__metadata__": {"by": "hand"}, "weight": WEIGHT, "bias": BIAS}
    found = read_header(write(tmp_path / "w", header, 26), "restore it")
    assert {name: (one.dtype, one.shape) for name, one in found.items()} == {
        "weight": ("F32", (2, 3)),
        "bias": ("BF16", ()),
    }
    wanted = {"weight": ("F32", (2, 3)), "bias": ("BF16", ())}
    check_tensors(found, wanted, "x: not the weights")
    other = {"weight": ("F32", (3, 2)), "more": ("F32", (1,))}
    with pytest.raises(DataError) as caught:
        check_tensors(found, other, "x: not the weights")
    wrong = "weight is F32 [2, 3] where F32 [3, 2] is expected; more is missing; there is no 'bias' in it"
    assert str(caught.value) == f"x: not the weights ({wrong})"


@pytest.mark.parametrize(
    ("header", "size", "sentence"),
    [
        ({"weight": WEIGHT}, 23, "its tensors have 24 bytes, and 23 are there"),
        ({"weight": WEIGHT}, 25, "its tensors have 24 bytes, and 25 are there"),
        ({"weight": {**WEIGHT, "shape": [2, 10**12]}}, 24, "does not lie where its shape says"),
        ({"weight": {**WEIGHT, "shape": [-2, -3]}}, 24, r"shape\[0\] is -2, expected at least 0"),
        ({"weight": {**WEIGHT, "dtype": "OBJECT"}}, 24, "is of dtype 'OBJECT'"),
        ({"weight": {**WEIGHT, "data_offsets": [0]}}, 24, "data_offsets is .*, expected 2 values"),
        ({"weight": WEIGHT, "again": WEIGHT}, 24, "does not lie where its shape says"),
        ([], 0, "its header is no JSON object"),
        (b"{" * 1000, 0, "not a safetensors file"),
        (b'{"a": NaN}', 0, "NaN is no number of JSON"),
    ],
)
def test_what_does_not_add_up_is_refused(tmp_path: Path, header: Any, size: int, sentence: str) -> None:
    """Each in one sentence that names the file."""
    with pytest.raises(DataError, match=rf"w: not a safetensors file .*{sentence}|w: {sentence}"):
        read_header(write(tmp_path / "w", header, size), "restore it")


def test_a_header_longer_than_its_file_and_a_pipe_are_refused(tmp_path: Path) -> None:
    """Nothing is allocated for the one, nothing waits for the other."""
    path = tmp_path / "w"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match=r"its header has no end"):
        read_header(path, "restore it")
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError, match=r"w: not a safetensors file"):
        read_header(path, "restore it")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"w: is a named pipe, not a file"):
        read_header(path, "restore it")
    path.unlink()
    with pytest.raises(DataError, match=r"w: No such file or directory; restore it"):
        read_header(path, "restore it")
