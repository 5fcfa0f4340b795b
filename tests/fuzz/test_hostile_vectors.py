# SPDX-License-Identifier: Apache-2.0
"""Files of word vectors and of soft labels, damaged: read as a training reads them, or refused."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from harness.data.soft_labels import KEY, check_soft_labels, path_of, read_soft_labels, schema, targets_of
from harness.model.embedding import from_file, from_kept
from harness.model.vector_files import check_named, check_own
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from preprocessing.dataset.vectors import VectorSettings, array_of, folder_of, index_of, write_kept
from preprocessing.text.vocabulary import Vocabulary
from tests.datasets import write_dataset, write_random_soft_labels
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.thorough
DIM = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with vectors, and soft labels of its training rows."""
    root = tmp_path_factory.mktemp("whole")
    write_dataset(
        root, {"train": 60, "validation": 20, "unlabelled": 20}, longest=20, widths=(8, 16, 32), block_rows=16
    )
    manifest = read_manifest(root)
    settings = VectorSettings(dim=DIM, epochs=1)
    vectors = np.random.default_rng(0).normal(size=(manifest.vocabulary_size, DIM))
    facts = {"threads": 1, "rows": 80, "tokens": 800, "words": manifest.vocabulary_size, "seconds": 1.0}
    facts |= {"dataset": manifest.fingerprint, "vocabulary": manifest.vocabulary_hash, "versions": {"gensim": "4"}}
    array = array_of(folder_of(root), manifest.fingerprint, settings)
    write_kept(array, vectors, settings=settings, made="2026-01-01T00:00:00+00:00", **facts)
    write_random_soft_labels(root, "dice")
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A dataset to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def own(root: Path) -> Path:
    """The array of its own vectors."""
    return next(folder_of(root).glob("*.npy"))


def started(root: Path, path: Path) -> bytes:
    """The vectors that a training starts from, as ``init.vectors`` finds them."""
    manifest, vocabulary = read_manifest(root), Vocabulary.read(root / VOCABULARY)
    check_named(str(path), manifest, DIM)
    if path.suffix == ".npy":
        found = from_kept(check_own(str(path), manifest, DIM), vocabulary)
    else:
        found = from_file(path, vocabulary, DIM)
    assert np.isfinite(found.vectors).all()
    return found.vectors.tobytes()


def test_hostile_vectors_of_a_dataset_are_refused(fuzz: Fuzz, root: Path) -> None:
    """With an index that agrees: nothing is unpickled, and no more is read than there is."""
    path = own(root)
    data, index = path.read_bytes(), json.loads(index_of(path).read_bytes())
    expected = started(root, path)

    def check(damage: Damage) -> str:
        path.write_bytes(damage.data)
        refused = outcome(lambda: started(root, path), lambda found: found == expected, root)
        agreeing = {**index, "sha256": hashlib.sha256(damage.data).hexdigest(), "bytes": len(damage.data)}
        index_of(path).write_text(json.dumps(agreeing))
        found = outcome(lambda: started(root, path), lambda found: True, root)
        index_of(path).write_text(json.dumps(index))
        return found if refused == "refused" else refused

    assert fuzz(st.one_of(byte_damages(data[:160]), byte_damages(data)), check)["refused"] > 0


def test_a_hostile_index_of_vectors_is_refused(fuzz: Fuzz, root: Path) -> None:
    """Planted values, missing and doubled keys."""
    path, index = own(root), index_of(own(root))

    def check(damage: Damage) -> str:
        index.write_bytes(damage.data)
        return outcome(lambda: started(root, path), lambda found: True, root)

    assert fuzz(json_damages(json.loads(index.read_bytes())), check)["refused"] > 0


def named_file(root: Path, kind: str) -> Path:
    """A file of vectors as others publish them."""
    tokens = Vocabulary.read(root / VOCABULARY).tokens.to_pylist()[2:]
    vectors = np.random.default_rng(1).normal(size=(len(tokens), DIM)).astype("<f4")
    head = f"{len(tokens)} {DIM}\n".encode()
    if kind == "binary":
        path = root / "named.bin"
        lines = [token.encode() + b" " + row.tobytes() + b"\n" for token, row in zip(tokens, vectors, strict=True)]
    else:
        path = root / f"named.{kind}"
        lines = [f"{token} {' '.join(map(str, row))}\n".encode() for token, row in zip(tokens, vectors, strict=True)]
    data = (b"" if kind == "glove" else head) + b"".join(lines)
    path.write_bytes(gzip.compress(data) if kind == "gz" else data)
    return path


@pytest.mark.parametrize("kind", ["vec", "glove", "binary", "gz"])
def test_damaged_vectors_of_others_are_read_or_refused(fuzz: Fuzz, root: Path, kind: str) -> None:
    """They have no hash: another number is another vector, and nothing worse."""
    path = named_file(root, kind)
    data = path.read_bytes()

    def check(damage: Damage) -> str:
        path.write_bytes(damage.data)
        return outcome(lambda: started(root, path), lambda found: True, path)

    assert fuzz(st.one_of(byte_damages(data[:40]), byte_damages(data)), check)["refused"] > 0


HEADS = {
    "a width of 10**9": b"5 1000000000\n",
    "10**15 words": b"1000000000000000 4\nw1 1 1 1 1\n",
    "5,000 digits": b"1" * 5_000 + b" 4\nw1 1 1 1 1\n",
    "5,000 digits of a width": b"5 " + b"1" * 5_000 + b"\nw1 1 1 1 1\n",
    "a line without end": b"5 4\nw1 " + b"1" * (1 << 22),
    "a million numbers": b"w1" + b" 1" * (1 << 21) + b"\n",
    "a pickle": b"\x80\x04\x95cposix\nsystem\n",
    "control characters": b"\x1b[2J \x1b[31m\n",
    "nothing but spaces": b"   \n" * 100,
    "infinities": b"5 4\nw1 inf inf inf inf\n",
}


@pytest.mark.parametrize("what", HEADS)
@pytest.mark.parametrize("suffix", [".vec", ".bin", ".txt.gz"])
def test_a_hostile_head_is_refused(root: Path, what: str, suffix: str) -> None:
    """Nothing is allocated for what it promises."""
    path = root / f"named{suffix}"
    path.write_bytes(gzip.compress(HEADS[what]) if suffix.endswith("gz") else HEADS[what])
    assert outcome(lambda: started(root, path), lambda found: False, path, growth=100 << 20) == "refused"


@pytest.mark.parametrize("what", REPLACEMENTS)
@pytest.mark.parametrize("kind", ["array", "index", "vec", "soft labels"])
def test_what_lies_in_the_place_of_a_file_beside_a_dataset_is_refused(root: Path, what: str, kind: str) -> None:
    """A pipe is not waited for, and a device is not read to its end."""
    path = {"array": own(root), "index": index_of(own(root)), "soft labels": path_of(root, "dice")}.get(kind)
    path = path or named_file(root, kind)
    REPLACEMENTS[what](path)
    use = {"array": lambda: started(root, path), "index": lambda: started(root, path.with_suffix(".npy"))}
    function = use.get(kind, (lambda: taught(root)) if kind == "soft labels" else (lambda: started(root, path)))
    assert outcome(function, lambda found: False, root) == "refused"


def taught(root: Path) -> bytes:
    """The soft labels of the training rows, as a loader takes them."""
    manifest = read_manifest(root)
    found = read_soft_labels(path_of(root, "dice"))
    check_soft_labels(found, root, manifest, [TRAIN])
    assert found.in_words.startswith("of ")
    return targets_of(found, Split(root, manifest, TRAIN)).tobytes()


def soft_file(batch: pa.RecordBatch, about: bytes) -> bytes:
    """A file of soft labels that says this of itself."""
    layout = batch.schema.with_metadata({KEY: about})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, layout) as writer:
        writer.write_batch(batch.replace_schema_metadata(layout.metadata))
    return sink.getvalue().to_pybytes()


def test_hostile_facts_of_soft_labels_are_refused(fuzz: Fuzz, root: Path) -> None:
    """Planted values and missing keys, with a hash that agrees."""
    path = path_of(root, "dice")
    batch = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).get_batch(0)
    about = json.loads(batch.schema.metadata[KEY])
    splits = read_soft_labels(path).splits

    def seal(content: dict[str, Any]) -> dict[str, str]:
        text = json.dumps(
            {name: value for name, value in content.items() if name != "sha256"},
            sort_keys=True, separators=(",", ":"), ensure_ascii=False,
        )  # fmt: skip
        digest = hashlib.sha256(text.encode())
        for name, (rows, chances) in splits.items():
            digest.update(name.encode() + rows.tobytes() + chances.tobytes())
        return {"sha256": digest.hexdigest()}

    def check(damage: Damage) -> str:
        path.write_bytes(soft_file(batch, damage.data))
        return outcome(lambda: taught(root), lambda found: True, root)

    assert fuzz(json_damages(about, seal), check)["refused"] > 0


def test_a_hostile_batch_of_soft_labels_is_refused(root: Path) -> None:
    """Other splits, one twice, and columns that are none of its own."""
    path = path_of(root, "dice")
    batch = pa.ipc.open_file(pa.py_buffer(path.read_bytes())).get_batch(0)
    about = batch.schema.metadata[KEY]
    for names in (["train", "train"], ["train", "\x1b[2J"], ["train", None], ["train"]):
        column = pa.DictionaryArray.from_arrays(batch.column(0).indices, pa.array(names, pa.string()), safe=False)
        changed = pa.RecordBatch.from_arrays([column, *batch.columns[1:]], schema=schema(2))
        path.write_bytes(soft_file(changed, about))
        assert outcome(lambda: taught(root), lambda found: False, path) == "refused"
    path.write_bytes(soft_file(batch.select(["row", "split"]), about))
    assert outcome(lambda: taught(root), lambda found: False, path) == "refused"
