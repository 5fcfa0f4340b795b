# SPDX-License-Identifier: Apache-2.0
"""A dataset as strangers write it: files with hashes that agree, which claim or hold what no job writes.

It is read, planned, loaded and computed with, or refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from preprocessing.dataset.shards import MANIFEST, VOCABULARY
from preprocessing.dataset.verification import verify
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, exchange, json_damages
from tests.fuzz.hostile_dataset import SHARDS, agreeing, rehashed, seal, used
from tests.fuzz.outcome import check_sentence, outcome

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("rows", [10**15, 61, 0, -1])
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


NUMBERS = [("length", 0), ("length", 17), ("length", -(2**31)), ("label", 2), ("label", -1), ("ids", 40_000)]


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


def retyped(batches: list[pa.RecordBatch], column: str, change: Callable[[Any], Any]) -> bytes:
    """A file in which a column is another."""
    return as_file(
        [
            pa.RecordBatch.from_pydict(
                {**dict(zip(one.schema.names, one.columns, strict=True)), column: change(one[column])}
            )
            for one in batches
        ]
    )


FORMS: dict[str, Callable[[list[pa.RecordBatch]], bytes]] = {
    "compressed": lambda batches: as_file(batches, pa.ipc.IpcWriteOptions(compression="zstd")),
    "other types": lambda batches: retyped(batches, "label", lambda it: it.cast(pa.int64())),
    "texts": lambda batches: retyped(batches, "row", lambda it: it.cast(pa.string())),
    "dictionaries": lambda batches: retyped(batches[:1], "row", lambda it: it.dictionary_encode()),
    "nulls": lambda batches: retyped(batches, "row", lambda it: pa.array([None] * len(it), pa.int64())),
    "wider": lambda batches: retyped(
        batches, "ids", lambda it: pa.FixedSizeListArray.from_arrays(it.values[: len(it) * 8], 8)
    ),
    "fewer columns": lambda batches: as_file([one.select(["ids", "length"]) for one in batches]),
    "an empty batch": lambda batches: as_file([*batches, batches[0].slice(0, 0)]),
    "a batch less": lambda batches: as_file(batches[1:]),
    "misaligned": lambda batches: as_file(batches)[:8] + b"\0" + as_file(batches)[8:],
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


def test_a_hostile_manifest_is_refused_and_verified_in_sentences(fuzz: Fuzz, root: Path) -> None:
    """Planted values, missing, doubled and exchanged keys; ``verify`` reads on where others stop."""
    path = root / MANIFEST
    content = json.loads(path.read_bytes())

    def verified() -> None:
        for problem in verify(root):
            check_sentence(problem, (root,))
        used(root)

    def check(damage: Damage) -> str:
        path.write_bytes(damage.data)
        return outcome(verified, lambda found: True, root)

    outcomes = fuzz(json_damages(content, seal), check)
    assert outcomes["refused"] > outcomes.total() // 2


@pytest.mark.parametrize("name", [*SHARDS, VOCABULARY])
def test_hostile_bytes_are_refused_or_lead_nowhere(fuzz: Fuzz, root: Path, name: str) -> None:
    data = (root / name).read_bytes()

    def check(damage: Damage) -> str:
        agreeing(root, name, damage.data)
        return outcome(lambda: used(root), lambda found: True, root)

    assert fuzz(byte_damages(data), check, 0.5)["refused"] > 0


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_what_lies_in_the_place_of_a_datasets_file_is_refused(root: Path, what: str) -> None:
    """A pipe is not waited for, and a device is not read to its end."""
    for name in (SHARDS[0], VOCABULARY, MANIFEST):
        REPLACEMENTS[what](root / name)
        assert outcome(lambda: used(root, hashes=False), lambda found: False, root) == "refused"


@pytest.mark.parametrize(("one", "other"), [(MANIFEST, VOCABULARY), (SHARDS[0], SHARDS[2]), (VOCABULARY, SHARDS[1])])
def test_exchanged_files_are_refused(root: Path, one: str, other: str) -> None:
    """Each is whole, and in the wrong place."""
    exchange(root / one, root / other)
    assert outcome(lambda: used(root), lambda found: False, root) == "refused"
