# SPDX-License-Identifier: Apache-2.0
"""Word vectors of a dataset's own texts: what gensim is given, what is kept, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset import vectors_command as command
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.dataset.vectors import VectorSettings, find_kept, folder_of, index_of, read_kept
from preprocessing.dataset.vectors_command import VectorsConfig, keep_vectors, word_table, write_corpus
from preprocessing.dataset.verification import verify
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes  # gensim asks the system for its name, by a program
SMALL = VectorsConfig(dim=8, window=3, negative=4, epochs=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without vectors."""
    root = tmp_path_factory.mktemp("vectors") / "data"
    write_dataset(root, {"train": 150, "validation": 20, "test": 20})
    return root


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy to be written in."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def quiet(text: str) -> None:
    """Nobody listens."""


def names_of(size: int) -> list[str]:
    """The word of each id, as gensim reads it."""
    return word_table(size).tobytes().decode("ascii").split()


@pytest.mark.parametrize("size", [3, 70_000, (1 << 18) + 5])
def test_every_id_has_a_word_of_its_own(size: int) -> None:
    names = names_of(size)
    assert len(set(names)) == size
    assert set(map(len, names)) == {3 if size <= 1 << 18 else 7}


def test_the_corpus_holds_every_row_once(whole: Path, tmp_path: Path) -> None:
    manifest = read_manifest(whole)
    split = Split(whole, manifest, "train")
    corpus = write_corpus(tmp_path / "lines", [split], manifest.vocabulary_size, 0)
    names = names_of(manifest.vocabulary_size)
    rows = [
        ids[:length].tolist() for block in split.blocks for ids, length in zip(block.ids, block.length, strict=True)
    ]
    expected = sorted(" ".join(names[number] for number in row) for row in rows)
    assert sorted((tmp_path / "lines").read_text().splitlines()) == expected
    np.testing.assert_array_equal(corpus.counts, np.bincount(np.concatenate(rows), minlength=manifest.vocabulary_size))
    assert (corpus.rows, corpus.tokens) == (150, sum(map(len, rows)))


def test_the_order_of_pieces_is_a_function_of_the_seed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PIECE_ROWS", 10)
    manifest = read_manifest(whole)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_corpus(tmp_path / name, [Split(whole, manifest, "train")], manifest.vocabulary_size, seed)
    first, again, other = ((tmp_path / name).read_text() for name in "abc")
    assert first == again != other
    assert sorted(first.splitlines()) == sorted(other.splitlines())


def test_vectors_are_those_of_gensim_called_by_hand(whole: Path, tmp_path: Path) -> None:
    """The same lines with ids as words, given to gensim as its manual says."""
    from gensim.models import Word2Vec

    manifest = read_manifest(whole)
    corpus = write_corpus(tmp_path / "lines", [Split(whole, manifest, "train")], manifest.vocabulary_size, 0)
    settings = VectorSettings(dim=8, window=3, negative=4, epochs=2)
    ours = command.learn(corpus, settings, 1)
    by_name = {name: str(number) for number, name in enumerate(names_of(manifest.vocabulary_size))}
    lines = [[by_name[word] for word in line.split()] for line in (tmp_path / "lines").read_text().splitlines()]
    (tmp_path / "plain").write_text("".join(" ".join(line) + "\n" for line in lines))
    counts = {str(number): int(count) for number, count in enumerate(corpus.counts) if count}
    plain = Word2Vec(vector_size=8, window=3, negative=4, min_count=1, workers=1, seed=0, sorted_vocab=0)
    plain.build_vocab_from_freq(counts)
    plain.train(corpus_file=str(tmp_path / "plain"), total_words=corpus.tokens, total_examples=len(lines), epochs=2)
    for number in range(manifest.vocabulary_size):
        expected = plain.wv[str(number)] if str(number) in counts else np.zeros(8)
        np.testing.assert_array_equal(ours[number], expected)
    assert not ours[0].any()


def test_kept_beside_the_shards_and_found_again(data: Path) -> None:
    said: list[str] = []
    kept, found = keep_vectors(data, SMALL, said.append)
    assert not found
    assert said[0].startswith("learning   vectors of 4,")
    assert said[0].endswith("tokens of train: 8 numbers, window 3, 4 negatives, 2 epochs, seed 0; 1 thread, about 0s")
    manifest = read_manifest(data)
    vectors = kept.read()
    assert vectors.shape == (manifest.vocabulary_size, 8)
    assert kept.info.dataset == manifest.fingerprint
    assert (kept.info.words, kept.info.threads) == (int(vectors.any(axis=1).sum()), 1)
    again, found = keep_vectors(data, SMALL, said.append)
    assert (found, again, len(said)) == (True, kept, 1)
    assert verify(data) == []
    names = {path.name for path in folder_of(data).iterdir()}
    assert names == {kept.path.name, index_of(kept.path).name, ".lock"}
    newer, _ = keep_vectors(data, VectorsConfig(dim=8, window=2, epochs=1), quiet)
    assert kept.path.exists()
    assert find_kept(folder_of(data), manifest.fingerprint, 8) == newer
    assert find_kept(folder_of(data), manifest.fingerprint, 16) is None
    assert find_kept(folder_of(data), "another", 8) is None


def test_the_same_seed_gives_the_same_file(data: Path, tmp_path: Path) -> None:
    """Also in another directory; another seed gives another one."""
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = VectorsConfig(dim=8, epochs=1, seed=seed, output=str(tmp_path / name))
        files.append(keep_vectors(data, config, quiet)[0])
    assert [kept.path.parent for kept in files] == [tmp_path / name for name in "abc"]
    first, again, other = (kept.path.read_bytes() for kept in files)
    assert first == again != other
    assert not folder_of(data).exists()


def test_vectors_of_a_dataset_that_is_no_more_are_removed(data: Path) -> None:
    old, _ = keep_vectors(data, SMALL, quiet)
    write_dataset(data, {"train": 100, "validation": 20})
    (folder_of(data) / f"corpus{atomic.TEMPORARY_MARK}gone-1").write_text("left by a kill")
    new, found = keep_vectors(data, SMALL, quiet)
    assert not found
    assert new.path != old.path
    names = {path.name for path in folder_of(data).iterdir()}
    assert names == {new.path.name, index_of(new.path).name, ".lock"}


def test_vectors_of_many_threads_do_not_stand_for_repeatable_ones(data: Path) -> None:
    many, _ = keep_vectors(data, VectorsConfig(dim=8, epochs=1, threads=2), quiet)
    assert many.info.threads == 2
    assert keep_vectors(data, VectorsConfig(dim=8, epochs=1), quiet) == (many, True)
    one, found = keep_vectors(data, VectorsConfig(dim=8, epochs=1, threads=1), quiet)
    assert (one.path, one.info.threads, found) == (many.path, 1, False)


def test_a_name_means_completeness(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 2: killed between array and index, nothing is there yet."""

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keep_vectors(data, SMALL, quiet)
    assert find_kept(folder_of(data), read_manifest(data).fingerprint, 8) is None
    assert [path.suffix for path in folder_of(data).iterdir() if path.name != ".lock"] == [".npy"]
    kept, found = keep_vectors(data, SMALL, quiet)
    assert not found
    assert read_kept(kept.path) == kept


def test_what_is_damaged_is_named(data: Path) -> None:
    kept, _ = keep_vectors(data, SMALL, quiet)
    changed = bytearray(kept.path.read_bytes())
    changed[-1] ^= 1
    kept.path.write_bytes(changed)
    with pytest.raises(DataError, match=r"its sha256 is not the one in cbow-8-.*\.json; delete it"):
        kept.read()
    index_of(kept.path).write_text("{")
    with pytest.raises(DataError, match=r"cbow-8-.*\.json: not readable as JSON .*; delete it, and .* makes it again"):
        find_kept(folder_of(data), read_manifest(data).fingerprint, 8)
    index_of(kept.path).write_text(json.dumps({"format": "padless-vectors", "format_version": 9}))
    with pytest.raises(DataError, match="not of this version of padless"):
        read_kept(kept.path)


def test_epochs_and_threads_follow_from_tokens(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def learned(array: Path, manifest: Any, splits: Any, settings: VectorSettings, threads: int, say: Any) -> None:
        asked.append((settings.epochs, threads))

    monkeypatch.setattr(command, "learn_and_write", learned)
    keep_vectors(data, VectorsConfig(), quiet)
    monkeypatch.setattr(command, "SMALL_TOKENS", 1)
    monkeypatch.setattr(command, "REPEATABLE_WORK", 1)
    keep_vectors(data, VectorsConfig(), quiet)
    keep_vectors(data, VectorsConfig(epochs=3, threads=7), quiet)
    assert asked == [(10, 1), (5, len(os.sched_getaffinity(0))), (3, 7)]


def test_what_cannot_be_learned_from_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="splits: test is what trainings are measured on; nothing is learned from it"):
        VectorsConfig(splits=["train", "test"])
    with pytest.raises(ConfigError, match=r"splits: .* has none of unlabelled; it has test, train, validation"):
        keep_vectors(data, VectorsConfig(splits=["unlabelled"]), quiet)
    with pytest.raises(ConfigError, match="name a local dataset directory"):
        command.main(VectorsConfig(), ["s3://bucket/data"])
    for key in ("dim", "window", "negative", "epochs", "threads"):
        with pytest.raises(ConfigError, match=f"{key}: 0 is out of range"):
            VectorsConfig(**{key: 0})


def test_two_processes_learn_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, says so, and finds what it has kept."""
    monkeypatch.setattr(command, "LOCK_TIMEOUT_S", 60.0)
    said: list[str] = []
    found: list[bool] = []
    second = threading.Thread(target=lambda: found.append(keep_vectors(data, SMALL, said.append)[1]))
    learn = command.learn

    def slowly(*arguments: Any) -> np.ndarray:
        second.start()
        while not said:
            time.sleep(0.01)
        return learn(*arguments)

    monkeypatch.setattr(command, "learn", slowly)
    assert not keep_vectors(data, SMALL, quiet)[1]
    second.join(60)
    assert found == [True]
    assert said == [f"waiting    for another process that learns vectors for {folder_of(data)}"]


def test_without_gensim_the_extra_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match=r"gensim is not installed: pip install 'padless\[vectors\]'"):
        keep_vectors(data, SMALL, quiet)


def test_where_nothing_can_be_written_is_said(data: Path) -> None:
    folder_of(data).write_text("a file in the folder's place")
    with pytest.raises(ConfigError, match=r"cannot be written \(.*\); name another directory with --output"):
        keep_vectors(data, SMALL, quiet)
