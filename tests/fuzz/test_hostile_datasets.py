# SPDX-License-Identifier: Apache-2.0
"""A dataset's manifest, shards and vocabulary, damaged: read, planned, loaded and computed with, or refused.

Damage is tried as a disk does it, so that hashes notice, and as a stranger does, with hashes that agree. What
agrees and is no fault (another name of a class, say) may be another dataset: then anything but a fault is fine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import strategies as st

from harness.config import ModelConfig, OrderConfig, RunConfig
from harness.data.checks import check_dataset, order_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.launch.forecast import forecast
from harness.model.classifier import Classifier
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset import inspect
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, Split
from preprocessing.dataset.verification import verify
from tests.datasets import write_dataset
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, exchange, json_damages
from tests.fuzz.outcome import check_sentence, outcome

pytestmark = pytest.mark.thorough
HASHED = {field.name for field in fields(Manifest)} - {"statistics", "provenance"}


def fingerprint_of(content: dict[str, Any]) -> str:
    """As ``Manifest.fingerprint``, for content of any kind."""
    return digest({name: value for name, value in content.items() if name in HASHED})


def digest(value: Any) -> str:
    """sha256 of canonical JSON, NaN and infinities included."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seal(content: dict[str, Any]) -> dict[str, str]:
    """The hashes of a manifest that agree with its content."""
    inner = {
        name: value for name, value in content.items() if name not in ("sha256", "fingerprint", "vocabulary_sha256")
    }
    known = fingerprint_of(inner)
    return {
        "fingerprint": known,
        "sha256": digest({**{k: v for k, v in content.items() if k != "sha256"}, "fingerprint": known}),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged dataset with statistics as a job writes them."""
    root = tmp_path_factory.mktemp("whole")
    write_dataset(
        root, {"train": 60, "validation": 20, "unlabelled": 20}, longest=20, widths=(8, 16, 32), block_rows=16
    )
    content = json.loads((root / MANIFEST).read_bytes())
    histogram = {"edges": [0, 10, 20], "rows": [30, 30]}
    content["statistics"] = {
        "rows_read": 100,
        "rows_kept": 100,
        "dropped": {"empty": 0},
        "contradictions": 0,
        "leaks": 0,
        "duplicates": {"exact": 0, "normalised": 0, "across_splits": 0},
        "unlabelled": {
            "rows": 20,
            "shared": dict.fromkeys(("train", "validation", "test"), 0),
            "duplicates": 0,
            "empty": 0,
        },
        "splits": {"train": {"truncated": 1, "empty": 1, "unknown_rate": 0.1, "length_histogram": histogram}},
    }
    content["provenance"] = {
        "sources": [{"name": "a.csv", "rows": 100, "first_row": 1, "fingerprint": {"sha256": "0" * 64}, "split": None}],
        "config": {"source": {"path": ["a.csv"]}},
    }
    (root / MANIFEST).write_bytes(rehashed(content))
    assert verify(root) == []
    return root


def rehashed(content: dict[str, Any]) -> bytes:
    """A manifest as it is written, its hashes in agreement."""
    content |= seal(content)
    return (json.dumps(content, indent=2) + "\n").encode()


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A dataset to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def used(root: Path, *, hashes: bool = True) -> list[float]:
    """What training does with a dataset until its first step, and what ``inspect`` shows: the logits of two steps."""
    config = RunConfig(
        data=str(root), model=ModelConfig(embedding_dim=2, hidden_size=2), order=OrderConfig(), global_batch=16
    )
    manifest = check_dataset(root, hashes=hashes)
    forecast(config, manifest, 1)
    inspect.render(inspect.inspect(root, samples=1))
    split = Split(root, manifest, TRAIN)
    torch.manual_seed(0)
    model = Classifier(config.model, manifest.vocabulary_size, len(manifest.labels)).eval()
    loader = Loader(
        split, order_over(split, order_spec(config)), rank=0, world_size=1, layout="packed", device=torch.device("cpu")
    )
    logits: list[float] = []
    with torch.inference_mode():
        for step in loader.steps(0, 0, 2):
            for batch in step.micro_batches:
                logits += model(batch).flatten().tolist()
                assert int(batch.labels.max()) < len(manifest.labels)
    return logits


def written(path: Path, data: bytes, function: Callable[[], Any]) -> Callable[[], Any]:
    """Damage a file before the function runs."""
    path.write_bytes(data)
    return function


def test_a_damaged_manifest_is_refused(fuzz: Fuzz, root: Path) -> None:
    """Flips, cuts and swaps anywhere in it; what changes no value changes no result."""
    path = root / MANIFEST
    data, expected = path.read_bytes(), used(root)
    outcomes = fuzz(
        byte_damages(data),
        lambda damage: outcome(written(path, damage.data, lambda: used(root)), lambda found: found == expected, root),
    )
    assert outcomes["refused"] > outcomes.total() // 2


def test_a_hostile_manifest_is_refused(fuzz: Fuzz, root: Path) -> None:
    """Planted values, missing, doubled and exchanged keys, with hashes that agree."""
    path = root / MANIFEST
    content = json.loads(path.read_bytes())
    outcomes = fuzz(
        json_damages(content, seal),
        lambda damage: outcome(written(path, damage.data, lambda: used(root)), lambda found: True, root),
    )
    assert outcomes["refused"] > outcomes.total() // 2


def test_what_verify_says_of_a_hostile_manifest_is_said_in_sentences(fuzz: Fuzz, root: Path) -> None:
    """It reads on where others stop."""
    path = root / MANIFEST
    content = json.loads(path.read_bytes())

    def verified() -> bool:
        for problem in verify(root):
            check_sentence(problem, (root,))
        return True

    outcomes = fuzz(
        json_damages(content, seal),
        lambda damage: outcome(written(path, damage.data, verified), lambda found: found, root),
    )
    assert outcomes["refused"] > 0


SHARDS = ("train/00000-w0016.arrow", "train/00000-w0032.arrow", "validation/00000-w0016.arrow")


def agreeing(root: Path, name: str, data: bytes) -> None:
    """A changed shard, or vocabulary, and a manifest that says that this is how it is to be."""
    (root / name).write_bytes(data)
    content = json.loads((root / MANIFEST).read_bytes())
    new = hashlib.sha256(data).hexdigest()
    if name == VOCABULARY:
        content["vocabulary_sha256"] = new
    for info in (info for infos in content["splits"].values() for info in infos):
        if info["path"] == name:
            info |= {"sha256": new, "bytes": len(data)}
    (root / MANIFEST).write_bytes(rehashed(content))


@pytest.mark.parametrize("hashes", [True, False])
def test_a_damaged_shard_is_refused(fuzz: Fuzz, root: Path, hashes: bool) -> None:
    """By its hash; and where no hash is looked at, nothing worse than another number is read."""
    path, expected = root / SHARDS[1], used(root)
    outcomes = fuzz(
        byte_damages(path.read_bytes()),
        lambda damage: outcome(
            written(path, damage.data, lambda: used(root, hashes=hashes)),
            lambda found: found == expected or not hashes,
            root,
        ),
    )
    assert outcomes["refused"] > outcomes.total() // 3


def test_a_hostile_shard_is_refused_or_leads_nowhere(fuzz: Fuzz, root: Path) -> None:
    """Any bytes, with hashes and sizes that agree."""
    whole = {name: (root / name).read_bytes() for name in SHARDS}
    manifest = (root / MANIFEST).read_bytes()

    def check(drawn: tuple[str, Damage]) -> str:
        for name, data in whole.items():
            (root / name).write_bytes(data)
        (root / MANIFEST).write_bytes(manifest)
        agreeing(root, drawn[0], drawn[1].data)
        return outcome(lambda: used(root), lambda found: True, root)

    cases = st.one_of(
        *(byte_damages(data).map(lambda damage, name=name: (name, damage)) for name, data in whole.items())
    )
    outcomes = fuzz(cases, check)
    assert outcomes["refused"] > 0


def test_a_hostile_vocabulary_is_refused_or_leads_nowhere(fuzz: Fuzz, root: Path) -> None:
    """It carries its own hash."""
    data = (root / VOCABULARY).read_bytes()

    def check(damage: Damage) -> str:
        agreeing(root, VOCABULARY, damage.data)
        return outcome(lambda: used(root), lambda found: True, root)

    outcomes = fuzz(byte_damages(data), check)
    assert outcomes["refused"] > 0


@pytest.mark.parametrize("what", REPLACEMENTS)
@pytest.mark.parametrize("name", [MANIFEST, VOCABULARY, *SHARDS])
def test_what_lies_in_the_place_of_a_datasets_file_is_refused(root: Path, name: str, what: str) -> None:
    """A pipe is not waited for, and a device is not read to its end."""
    REPLACEMENTS[what](root / name)
    assert outcome(lambda: used(root, hashes=False), lambda found: False, root) == "refused"


@pytest.mark.parametrize("one", [MANIFEST, VOCABULARY, SHARDS[0]])
@pytest.mark.parametrize("other", [VOCABULARY, SHARDS[1], SHARDS[2]])
def test_exchanged_files_are_refused(root: Path, one: str, other: str) -> None:
    """Each is whole, and in the wrong place."""
    exchange(root / one, root / other)
    assert outcome(lambda: used(root), lambda found: one == other, root) == ("same" if one == other else "refused")


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
