# SPDX-License-Identifier: Apache-2.0
"""A dataset as strangers write it: files with hashes that agree, which claim or hold what no job writes. It is read,
planned, loaded and computed with, or refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from harness.config import ModelConfig, OrderConfig, RunConfig
from harness.data.order import order_over
from harness.data.run_rows import check_data, order_spec
from harness.model.classifier import Classifier
from harness.model.registry import num_outputs
from padless.core import arrays, atomic
from padless.core.split_names import TRAIN
from preprocessing.dataset.index import INDEX, INDEX_SCHEMA
from preprocessing.dataset.inspect import Dataset, describe_dataset
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, Split
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages, replace
from tests.fuzz.outcome import outcome
from tests.helpers.batches import loader_of
from tests.helpers.commands import read_json
from tests.helpers.datasets import rewritten, write_dataset

HASHED = {field.name for field in fields(Manifest)} - {"statistics", "provenance", "label_type"}


def digest(value: Any) -> str:
    """sha256 of canonical JSON, NaN and infinities included."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seal_manifest(content: dict[str, Any]) -> dict[str, str]:
    """The hashes of a manifest that agree with its content."""
    fingerprint = digest({name: value for name, value in content.items() if name in HASHED})
    content_without_hash = {name: value for name, value in content.items() if name != "sha256"}
    return {"fingerprint": fingerprint, "sha256": digest({**content_without_hash, "fingerprint": fingerprint})}


SHARDS = ("train/00000-w0016.arrow", "validation/00000-w0016.arrow")


def write_whole(root: Path) -> None:
    """An undamaged dataset with statistics as a job writes them."""
    write_dataset(
        root, {"train": 60, "validation": 20, "unlabelled": 20}, longest=20, widths=(8, 16, 32), block_rows=16
    )
    content = read_json(root / MANIFEST)
    content["statistics"] = {
        "duplicates": {"normalised": 0, "across_splits": 0},
        "splits": {"train": {"truncated": 1, "empty": 1, "unknown_rate": 0.1}},
    }
    source = {"name": "a.csv", "rows": 100, "first_row": 1, "bytes": 9, "fingerprint": {"sha256": "0" * 64}}
    content["provenance"] = {"sources": [source], "config": {"source": {"path": ["a.csv"]}}}
    (root / MANIFEST).write_bytes(manifest_bytes(content))


def manifest_bytes(content: dict[str, Any]) -> bytes:
    """A manifest as it is written, its hashes in agreement."""
    content |= seal_manifest(content)
    return (json.dumps(content, indent=2) + "\n").encode()


def train_two_steps(root: Path) -> list[float]:
    """What training does with a dataset until its first step, and what ``inspect`` shows: the logits of two steps."""
    config = RunConfig(
        data=str(root), model=ModelConfig(embedding_dim=2, hidden_size=2), order=OrderConfig(), global_batch=16
    )
    manifest = check_data(config, 1)
    describe_dataset(Dataset(root))
    split = Split(root, manifest, TRAIN)
    torch.manual_seed(0)
    model = Classifier(config.model, manifest.vocabulary_size, num_outputs(manifest)).eval()
    loader = loader_of(split, order_over(split, order_spec(config)), layout="packed")
    logits = []
    with torch.inference_mode():
        for step in loader.steps(0, 0, 2):
            for batch in step.micro_batches:
                logits += model(batch).flatten().tolist()
                assert int(batch.labels.max()) < len(manifest.labels)
    return logits


def agreeing(root: Path, name: str, data: bytes) -> None:
    """A changed shard, or vocabulary, and a manifest that says that this is how it is to be."""
    (root / name).write_bytes(data)
    content = read_json(root / MANIFEST)
    new = hashlib.sha256(data).hexdigest()
    if name == VOCABULARY:
        content["vocabulary_sha256"] = new
    elif name == INDEX:
        content["index"] = new
    else:
        split, width = name.split("/")[0], int(name.removesuffix(".arrow")[-4:])
        (part,) = content["splits"][split]
        lines = read_table(root / INDEX).to_pylist()
        lines_of_split = lines[part["first"] :][: part["shards"]]
        (line,) = (line for line in lines_of_split if line["width"] == width)
        part["bytes"] += len(data) - line["bytes"]
        pieces = itertools.pairwise(line["starts"])
        hashes = [hashlib.sha256(data[start:stop]).digest() for start, stop in pieces]
        line |= {"sha256": bytes.fromhex(new), "bytes": len(data), "hashes": hashes}
        content["index"] = write_lines(root, lines)
    (root / MANIFEST).write_bytes(manifest_bytes(content))


def read_table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all()


def write_lines(root: Path, lines: list[dict[str, Any]]) -> str:
    """An index of these lines; its sha256."""
    columns = pa.Table.from_pylist(lines, INDEX_SCHEMA).to_pydict()
    arrays.write_batch(root / INDEX, columns, INDEX_SCHEMA)
    return atomic.sha256_file(root / INDEX)


pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("column", "value"),
    [("rows", 1 << 30), ("rows", -1), ("width", 64), ("width", -1 << 31), ("bytes", 1), ("number", -5), ("", 0)],
)
def test_a_line_of_the_index_that_lies_is_refused(root: Path, column: str, value: int) -> None:
    """Whatever it says leads to no file but the shards of the dataset."""
    lines = read_table(root / INDEX).to_pylist()
    lines[0][column] = value
    write_lines(root, lines if column else lines[1:])
    agreeing(root, INDEX, (root / INDEX).read_bytes())
    assert outcome(lambda: train_two_steps(root), lambda _: False, root, seconds=5) == "refused"


@pytest.mark.parametrize(("column", "value"), [("length", 0), ("length", 17), ("label", 2), ("ids", 40_000)])
def test_a_number_that_leads_outside_is_refused(root: Path, column: str, value: int) -> None:
    """When its window is first read; never by the network."""

    def change_last(numbers: np.ndarray) -> np.ndarray:
        changed = numbers.copy()
        changed[-1] = value
        return changed

    rewritten(root, TRAIN, **{column: change_last})
    assert outcome(lambda: train_two_steps(root), lambda _: False, root) == "refused"


def test_a_compressed_shard_is_refused(root: Path) -> None:
    """It would take more memory than the file."""
    rows, sink = read_table(root / SHARDS[0]), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write(rows)
    agreeing(root, SHARDS[0], sink.getvalue().to_pybytes())
    assert outcome(lambda: train_two_steps(root), lambda _: False, root / SHARDS[0]) == "refused"


def test_a_hostile_manifest_is_refused(fuzz: Fuzz, root: Path) -> None:
    path = root / MANIFEST

    def check(damage: Damage) -> str:
        path.write_bytes(damage.data)
        return outcome(lambda: train_two_steps(root), lambda _: True, root)

    outcomes = fuzz(json_damages(read_json(path), seal_manifest), check)
    assert outcomes["refused"] > outcomes.total() // 2


@pytest.mark.parametrize("name", [SHARDS[0], VOCABULARY, INDEX])
def test_hostile_bytes_are_refused_or_lead_nowhere(fuzz: Fuzz, root: Path, name: str) -> None:
    def check(damage: Damage) -> str:
        agreeing(root, name, damage.data)
        return outcome(lambda: train_two_steps(root), lambda _: True, root)

    assert fuzz(byte_damages((root / name).read_bytes()), check, 0.5)["refused"] > 0


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_what_lies_in_the_place_of_a_file_is_refused(root: Path, replacement: str) -> None:
    """A pipe is not waited for, and a device is not read to its end."""
    for name in (SHARDS[0], VOCABULARY, INDEX, MANIFEST):
        replace(root / name, replacement)
        assert outcome(lambda: train_two_steps(root), lambda _: False, root) == "refused", name
