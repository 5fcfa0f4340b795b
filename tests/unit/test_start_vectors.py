# SPDX-License-Identifier: Apache-2.0
"""Initial vectors of an embedding: choice, scale, messages, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from harness.config import InitConfig, ModelConfig, RunConfig
from harness.ranks.distributed import World
from harness.training import preflight
from harness.training.assembly import Beginning, begin
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import Manifest, read_manifest
from preprocessing.dataset.vectors import VectorSettings, array_of, folder_of, write_kept
from preprocessing.text.vocabulary import PAD
from tests.datasets import copy_of, shared_dataset

DIM = 6


whole = shared_dataset({"train": 60, "validation": 10})


data = copy_of("whole")


def keep(data: Path, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """Write made-up vectors for a dataset; the last two words have none."""
    manifest = read_manifest(data)
    values = np.random.default_rng(seed).normal(size=(manifest.vocabulary_size, dim)).astype(np.float32)
    values[[PAD, -2, -1]] = 0
    settings = VectorSettings(dim=dim, window=1 + seed)
    facts = {"rows": 60, "tokens": 5, "words": 3, "seconds": 1.0, "versions": {}, "made": str(seed)}
    array = array_of(folder_of(data), manifest.fingerprint, settings)
    known = {"dataset": manifest.fingerprint, "vocabulary": manifest.vocabulary_hash}
    write_kept(array, values, **known, settings=settings, **facts)
    return values


def config(data: Path, source: str, **more: object) -> RunConfig:
    model = ModelConfig(embedding_dim=DIM, embedding_std=0.5, hidden_size=4)
    base = RunConfig(data=str(data), run=str(data.parent / "run"), model=model, init=InitConfig(vectors=source))
    return dataclasses.replace(base, **more)


def start(data: Path, source: str, **more: object) -> Beginning:
    return begin(config(data, source, **more), read_manifest(data), {}, World())


def glove(path: Path, words: list[str]) -> np.ndarray:
    values = np.round(np.random.default_rng(3).normal(size=(len(words), DIM)), 3)
    rows = [" ".join([word, *map(str, row)]) for word, row in zip(words, values, strict=True)]
    path.write_text("\n".join(rows) + "\n")
    return values.astype(np.float32)


def test_a_dry_run_learns_nothing(data: Path) -> None:
    found = start(data, "own", dry_run=True)
    assert found.vectors is None
    assert str(found.choices["vectors"]) == "random: a dry run learns none; the run itself does before its first step"
    assert not folder_of(data).exists()


def test_what_cannot_be_started_from_is_refused_before_any_process_starts(data: Path, tmp_path: Path) -> None:
    keep(data, dim=4)
    (small,) = folder_of(data).glob("*.npy")
    manifest = read_manifest(data)

    def check(source: str, of: Manifest = manifest) -> None:
        preflight.check_start(config(data, source), of)

    check("own")
    with pytest.raises(ConfigError, match=r"vectors of 4 numbers, .* is 6; set model\.embedding_dim to 4"):
        check(str(small))
    other = dataclasses.replace(manifest, text_hash="another", vocabulary_hash="another")
    with pytest.raises(DataError, match=r"learned from another dataset .*, whose ids are others; learn those of this"):
        check(str(small), other)
    glove(tmp_path / "glove.txt", ["日本", "映画"])
    with pytest.raises(DataError, match=r"glove\.txt: none of its 2 words is in the dataset's vocabulary"):
        start(data, str(tmp_path / "glove.txt"))
