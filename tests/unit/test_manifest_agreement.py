# SPDX-License-Identifier: Apache-2.0
"""What a manifest may not say, though each value is of the right type; and what Arrow files may not be."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness.data.checks import check_dataset
from preprocessing.base.arrow import mapped, record_batches
from preprocessing.base.errors import DataError
from preprocessing.base.schema import typed
from preprocessing.dataset.manifest import Told, contradictions
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, Split, read_manifest
from preprocessing.dataset.verification import check_files, verify
from tests.datasets import write_dataset
from tests.fuzz.hostile_dataset import rehashed


def contradiction(manifest: Manifest, id_dtype: str) -> str | None:
    return next(contradictions(manifest, id_dtype), None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 60, "validation": 20, "unlabelled": 20}, longest=16, widths=(8, 16), block_rows=32)
    return root


def test_a_text_pipeline_that_its_hash_does_not_know_trains_nothing(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "data"))
    content = json.loads((root / MANIFEST).read_text())
    content["text"]["spec"]["lowercase"] = not content["text"]["spec"]["lowercase"]
    (root / MANIFEST).write_bytes(rehashed(content))
    with pytest.raises(DataError, match=r"dataset\.json: its text does not match its text_hash: edited or damaged"):
        check_dataset(root)


@pytest.fixture
def manifest(whole: Path) -> Manifest:
    return read_manifest(whole)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"path": "../x"}, r"splits.train\[0\].path leads out of its folder: '../x'"),
        (
            {"path": "vocabulary.arrow"},
            r"splits.train\[0\].path is 'vocabulary.arrow', which is another file of it too",
        ),
        ({"rows": 10**6}, "rows is 1000000 of width 8, more than [0-9]+ bytes hold"),
        ({"width": 10**6}, "of width 1000000, more than"),
        ({"lengths": {"9": 1}}, "lengths are not numbers of rows by length, from 1 to 8"),
        ({"lengths": {"01": 1}}, "lengths are not numbers"),
        ({"lengths": {"x": 1}}, "lengths are not numbers"),
        ({"lengths": {"1": 0}}, "lengths are not numbers"),
        ({"lengths": {}}, "lengths are not numbers"),
        ({"lengths": {"1": 1}}, "lengths do not add up to [0-9]+ rows with [0-9]+ tokens"),
        ({"labels": {"2": 1}}, "labels are not numbers of rows by label, from 0 to 1"),
        ({"labels": {"-1": 1}}, "labels are not numbers of rows by label, from 0 to 1"),
        ({"labels": {"0": 1}}, "labels do not add up to [0-9]+ rows"),
        ({"fold": 7}, r"splits.train\[0\].fold is 7, but there are only [0-9] shards"),
    ],
)
def test_counts_of_a_shard_agree(manifest: Manifest, change: dict[str, Any], sentence: str) -> None:
    first, *rest = manifest.splits["train"]
    changed = replace(manifest, splits={**manifest.splits, "train": [replace(first, **change), *rest]})
    assert re.search(sentence, str(contradiction(changed, "uint16")))


def test_a_whole_manifest_agrees(manifest: Manifest) -> None:
    assert contradiction(manifest, "uint16") is None


def test_classes_splits_and_ids_agree(manifest: Manifest) -> None:
    assert contradiction(manifest, "int32") == f"id_dtype is 'uint16', that of {manifest.vocabulary_size} ids is int32"
    assert contradiction(replace(manifest, labels=["a", "b", "a"]), "uint16") == "labels has 'a' twice"
    named = replace(manifest, splits={"\x1b[2J": []})
    wrong = contradiction(named, "uint16")
    assert wrong == r"splits has '\x1b[2J', which is none of train, validation, test, unlabelled"
    twice = replace(manifest, splits={"train": manifest.splits["train"], "test": manifest.splits["train"]})
    assert "which is another file of it too" in str(contradiction(twice, "uint16"))


@pytest.mark.parametrize(
    "told",
    [
        {"splits": {"train": {"unknown_rate": 2}}},
        {"splits": {"train": {"truncated": -1}}},
        {"splits": {"train": {"length_histogram": {"edges": [0, 1]}}}},
        {"sources": [{"name": "a.csv"}]},
        {"config": 1},
    ],
)
def test_what_is_told_is_of_its_types(told: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"^file: .* at `\$\..*`; mend$"):
        typed(Told, told, "file", "mend")


def test_statistics_that_nobody_reads_are_let_be(whole: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "data"))
    content = json.loads((root / MANIFEST).read_text())
    content["statistics"] |= {"another": [1.5], "splits": {"train": {"more": None, "unknown_rate": 1}}}
    (root / MANIFEST).write_bytes(rehashed(content))
    assert json.dumps(read_manifest(root).statistics) == json.dumps(content["statistics"])  # 1 has not become 1.0


@pytest.mark.parametrize("edges", [[0, 2, 1], [0, 1]])
def test_edges_of_lengths_ascend_around_their_rows(manifest: Manifest, edges: list[int]) -> None:
    known = {"splits": {"train": {"length_histogram": {"edges": edges, "rows": [1, 1]}}}}
    assert "has no ascending edges" in str(contradiction(replace(manifest, statistics=known), "uint16"))


def test_files_are_there_in_their_size(whole: Path, manifest: Manifest) -> None:
    check_files(whole, manifest)
    path = manifest.splits["train"][0].path
    with pytest.raises(DataError, match="the manifest names this shard, but it is missing"):
        check_files(whole, replace(manifest, splits={"train": [replace(manifest.splits["train"][0], path="x")]}))
    with pytest.raises(DataError, match=f"{path}: [0-9]+ bytes, the manifest says 10"):
        check_files(whole, replace(manifest, splits={"train": [replace(manifest.splits["train"][0], bytes=10)]}))
    with pytest.raises(DataError, match=f"{VOCABULARY}: {manifest.vocabulary_size} words, the manifest says 9"):
        check_files(whole, replace(manifest, vocabulary_size=9))


def test_a_block_is_looked_at_once(whole: Path, manifest: Manifest) -> None:
    split = Split(whole, manifest, "train")
    assert split.checked(0) is split.blocks[0]
    split.manifest = replace(manifest, vocabulary_size=3)  # is not looked at again
    assert split.checked(0) is split.blocks[0]
    with pytest.raises(DataError, match="it holds an id beyond the vocabulary of 3; build the dataset again"):
        split.checked(1)


def test_the_number_that_leads_outside_is_named(whole: Path, manifest: Manifest) -> None:
    block = Split(whole, manifest, "train").blocks[0]
    assert block.outside(manifest.vocabulary_size, (0, 1)) is None
    assert block.outside(manifest.vocabulary_size, (0, 0)) == "a label outside 0..0"
    assert block.outside(manifest.vocabulary_size, None) is None
    long = replace(block, length=np.full_like(block.length, 9))
    assert long.outside(manifest.vocabulary_size, (0, 1)) == "a length outside 1..8"
    negative = replace(block, ids=np.full(block.ids.shape, -1, np.int32))
    assert negative.outside(100, (0, 1)) == "an id beyond the vocabulary of 100"


def test_verify_reads_on_where_the_vocabulary_is_another(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_bytes((whole / "dataset.json").read_bytes())
    found = verify(tmp_path)
    assert f"{tmp_path / VOCABULARY} is missing" in found[0]
    shards = json.loads((whole / "dataset.json").read_bytes())["splits"].values()
    assert len(found) == 1 + sum(map(len, shards))


@pytest.mark.parametrize("compression", ["lz4", "zstd", None])
def test_record_batches_are_mapped_or_refused(tmp_path: Path, compression: str | None) -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([1, 2, 3]), "b": pa.array(["x", "y", "x"]).dictionary_encode()})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(tmp_path / "file"), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema, options=options) as writer,
    ):
        writer.write_batch(batch)
    if compression:
        with pytest.raises(ValueError, match="its record batches are compressed, which cannot be mapped"):
            record_batches(mapped(tmp_path / "file"))
        return
    before = pa.total_allocated_bytes()
    schema, found = record_batches(mapped(tmp_path / "file"))
    assert schema == batch.schema
    assert found[0].equals(batch)
    assert pa.total_allocated_bytes() <= before  # nothing was copied


def test_a_file_without_the_magic_word_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(ValueError, match="does not begin as an Arrow file does"):
        record_batches(mapped(tmp_path / "file"))
