# SPDX-License-Identifier: Apache-2.0
"""A small dataset to be damaged, what training does with it, and hashes that agree with what it then is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from harness.config import ModelConfig, OrderConfig, RunConfig
from harness.data.checks import check_dataset, order_spec
from harness.data.order import order_over
from harness.launch.plan import forecast
from harness.model.classifier import Classifier
from preprocessing.base import arrays, atomic
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset import inspect
from preprocessing.dataset.index import INDEX, LINES
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, Split, read_manifest
from preprocessing.dataset.vectors import VectorSettings, array_of, folder_of, write_kept
from tests.batches import loader_of
from tests.commands import read_json
from tests.datasets import write_dataset, write_random_soft_labels

HASHED = {field.name for field in fields(Manifest)} - {"statistics", "provenance", "label_type"}


def digest(value: Any) -> str:
    """sha256 of canonical JSON, NaN and infinities included."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seal(content: dict[str, Any]) -> dict[str, str]:
    """The hashes of a manifest that agree with its content."""
    fingerprint = digest({name: value for name, value in content.items() if name in HASHED})
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return {"fingerprint": fingerprint, "sha256": digest({**rest, "fingerprint": fingerprint})}


DIM = 4
SHARDS = ("train/00000-w0016.arrow", "validation/00000-w0016.arrow")


def write_whole(root: Path) -> None:
    """An undamaged dataset with statistics as a job writes them, vectors of its words and soft labels of its rows."""
    write_dataset(
        root, {"train": 60, "validation": 20, "unlabelled": 20}, longest=20, widths=(8, 16, 32), block_rows=16
    )
    content = read_json(root / MANIFEST)
    content["statistics"] = {
        "duplicates": {"exact": 0, "normalised": 0, "across_splits": 0},
        "splits": {"train": {"truncated": 1, "empty": 1, "unknown_rate": 0.1}},
    }
    source = {"name": "a.csv", "rows": 100, "first_row": 1, "bytes": 9, "fingerprint": {"sha256": "0" * 64}}
    content["provenance"] = {"sources": [source], "config": {"source": {"path": ["a.csv"]}}}
    (root / MANIFEST).write_bytes(rehashed(content))
    manifest, settings = read_manifest(root), VectorSettings(dim=DIM)
    vectors = np.random.default_rng(0).normal(size=(manifest.vocabulary_size, DIM))
    facts = {"rows": 80, "tokens": 800, "words": manifest.vocabulary_size, "seconds": 1.0}
    facts |= {"dataset": manifest.fingerprint, "vocabulary": manifest.vocabulary_hash, "versions": {"numpy": "2"}}
    array = array_of(folder_of(root), manifest.fingerprint, settings)
    write_kept(array, vectors, settings=settings, made="2026-01-01T00:00:00+00:00", **facts)
    write_random_soft_labels(root, "dice")


def rehashed(content: dict[str, Any]) -> bytes:
    """A manifest as it is written, its hashes in agreement."""
    content |= seal(content)
    return (json.dumps(content, indent=2) + "\n").encode()


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
        lines = pa.ipc.open_file(pa.py_buffer((root / INDEX).read_bytes())).read_all().to_pylist()
        (line,) = (one for one in lines[part["first"] :][: part["shards"]] if one["width"] == width)
        part["bytes"] += len(data) - line["bytes"]
        line |= {"sha256": bytes.fromhex(new), "bytes": len(data)}
        content["index"] = write_lines(root, lines)
    (root / MANIFEST).write_bytes(rehashed(content))


def write_lines(root: Path, lines: list[dict[str, Any]]) -> str:
    """An index of these lines; its sha256."""
    columns = {name: [line[name] for line in lines] for name in LINES.names}
    arrays.write_batch(root / INDEX, columns, LINES)
    return atomic.sha256_file(root / INDEX)
