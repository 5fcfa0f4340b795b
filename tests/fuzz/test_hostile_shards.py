# SPDX-License-Identifier: Apache-2.0
"""Shards as strangers write them: well-formed files, with hashes that agree, that claim or hold what no job writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from preprocessing.dataset.shards import MANIFEST
from tests.fuzz.hostile_dataset import SHARDS, agreeing, rehashed, used
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("rows", [10**15, 10**9, 61, 2**31, 0, -1])
def test_rows_that_no_file_holds_are_refused_at_once(root: Path, rows: int) -> None:
    """Nothing is planned for them."""
    content = json.loads((root / MANIFEST).read_bytes())
    info = content["splits"]["train"][0]
    difference = rows - info["rows"]
    length = next(iter(info["lengths"]))
    info["lengths"][length] += difference
    info["labels"]["0"] += difference
    info |= {"rows": rows, "tokens": info["tokens"] + int(length) * difference, "bytes": max(1, rows) * 10**3}
    (root / MANIFEST).write_bytes(rehashed(content))
    assert outcome(lambda: used(root), lambda found: False, root, seconds=5) == "refused"


NUMBERS = [
    *[("length", value) for value in (0, -1, 17, 2**31 - 1, -(2**31))],
    *[("label", value) for value in (2, -1, 2**31 - 1, -(2**31))],
    *[("ids", value) for value in (2**16 - 1, 40_000)],
]


def batches_of(root: Path, name: str) -> list[pa.RecordBatch]:
    """The record batches of a shard, in memory."""
    return pa.ipc.open_file(pa.py_buffer((root / name).read_bytes())).read_all().to_batches()


def as_file(batches: list[pa.RecordBatch], options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    """An Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize(("column", "value"), NUMBERS)
def test_a_number_that_leads_outside_is_refused(root: Path, column: str, value: int, hashes: bool) -> None:
    """Before training where hashes are looked at, else when its window is first read; never by the network."""
    name, changed = SHARDS[0], []
    for batch in batches_of(root, name):
        at = batch.schema.get_field_index(column)
        array = batch.column(at)
        flat = np.array(array.values if column == "ids" else array)
        flat[-1] = value
        new = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=array.type) if column == "ids" else pa.array(flat)
        changed.append(batch.set_column(at, batch.schema.field(at), new))
    agreeing(root, name, as_file(changed))
    assert outcome(lambda: used(root, hashes=hashes), lambda found: False, root) == "refused"


def retyped(batch: pa.RecordBatch, column: str, change: Callable[[Any], Any]) -> pa.RecordBatch:
    """A record batch in which a column is another."""
    columns = {
        name: change(array) if name == column else array
        for name, array in zip(batch.schema.names, batch.columns, strict=True)
    }
    return pa.RecordBatch.from_pydict(columns)


def misaligned(data: bytes) -> bytes:
    """A stream of which each message begins at an odd place."""
    return data[:8] + b"\0" + data[8:]


FORMS: dict[str, Callable[[list[pa.RecordBatch]], bytes]] = {
    "compressed": lambda batches: as_file(batches, pa.ipc.IpcWriteOptions(compression="zstd")),
    "compressed with lz4": lambda batches: as_file(batches, pa.ipc.IpcWriteOptions(compression="lz4")),
    "other types": lambda batches: as_file([retyped(one, "label", lambda it: it.cast(pa.int64())) for one in batches]),
    "texts": lambda batches: as_file([retyped(one, "row", lambda it: it.cast(pa.string())) for one in batches]),
    "dictionaries": lambda batches: as_file([retyped(batches[0], "row", lambda it: it.dictionary_encode())]),
    "nulls": lambda batches: as_file(
        [
            pa.RecordBatch.from_arrays(
                [*one.columns[:3], pa.array([None] * len(one), pa.int64())], schema=batches[0].schema
            )
            for one in batches
        ]
    ),
    "fewer columns": lambda batches: as_file([one.select(["ids", "length"]) for one in batches]),
    "an empty batch": lambda batches: as_file([*batches, batches[0].slice(0, 0)]),
    "a batch less": lambda batches: as_file(batches[1:]),
    "wider": lambda batches: as_file(
        [
            retyped(one, "ids", lambda it: pa.FixedSizeListArray.from_arrays(it.values[: len(it) * 8], 8))
            for one in batches
        ]
    ),
    "misaligned": lambda batches: misaligned(as_file(batches)),
    "a stream": lambda batches: as_file(batches)[8:],
    "no batch": lambda batches: as_file([batches[0].slice(0, 0)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_arrow_file_of_another_form_is_refused(root: Path, form: str) -> None:
    """Nothing of it is unpacked."""
    agreeing(root, SHARDS[0], FORMS[form](batches_of(root, SHARDS[0])))
    assert outcome(lambda: used(root), lambda found: False, root / SHARDS[0]) == "refused"


def test_metadata_of_megabytes_and_lies_in_the_footer_change_nothing(root: Path) -> None:
    """The first is not looked at, the second is not read."""
    expected, batches = used(root), batches_of(root, SHARDS[0])
    schema = batches[0].schema.with_metadata({"x": "y" * (8 << 20)})
    data = as_file([batch.replace_schema_metadata(schema.metadata) for batch in batches])
    agreeing(root, SHARDS[0], data)
    assert outcome(lambda: used(root), lambda found: found == expected, root) == "same"
    agreeing(root, SHARDS[0], data[:-200] + b"\xff" * 190 + data[-10:])
    assert outcome(lambda: used(root), lambda found: found == expected, root) == "same"
