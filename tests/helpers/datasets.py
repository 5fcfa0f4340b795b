# SPDX-License-Identifier: Apache-2.0
"""Small datasets made on the spot, through the real encoder, vocabulary and shard writer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from padless.core import arrays
from padless.core.split_names import NO_LABEL, TEST, UNLABELLED
from preprocessing.dataset.index import ShardInfo, write_index
from preprocessing.dataset.shards import (
    VOCABULARY,
    Block,
    Manifest,
    Split,
    id_dtype,
    read_manifest,
    write_manifest,
    write_shard,
)
from preprocessing.text.encoder import Encoder
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Tokenizer, Tokens
from preprocessing.text.vocabulary import TokenCounts, Vocabulary, freeze

MOODS = (
    ("dull", "awful", "bad", "boring"),
    ("fine", "great", "moving", "superb"),
    ("odd", "strange", "weird", "eerie"),
)


def sentences(rows: int, num_classes: int, seed: int, longest: int) -> tuple[list[str], np.ndarray]:
    """Texts of 1 to ``longest`` words whose class shows in a few of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, rows)
    texts = []
    for label in labels:
        length = int(random.integers(1, longest + 1))
        words = [f"w{int(word)}" for word in random.zipf(1.5, length) % 200]
        for position in random.integers(0, length, 1 + length // 8):
            words[position] = str(random.choice(MOODS[label]))
        texts.append(" ".join(words))
    return texts, labels


def write_dataset(
    root: Path,
    rows: dict[str, int],
    *,
    num_classes: int = 2,
    seed: int = 0,
    longest: int = 60,
    widths: tuple[int, ...] = (16, 32, 64),
    block_rows: int = 64,
    base: Path | None = None,
    label_sets: list[list[int]] | None = None,
) -> dict[str, list[str]]:
    """Write a dataset directory and return the texts of each split, by row number.

    Rows of a split called ``unlabelled`` have no label. ``base``: another dataset, whose vocabulary it gets.
    ``label_sets``: several labels to a text, of two classes; there are as many kinds of texts as sets.
    """
    num_classes = len(label_sets) if label_sets else num_classes
    spec = TextSpec(max_tokens=widths[-1])
    pipeline = resolve_pipeline(spec)
    texts = {
        name: sentences(size, num_classes, seed + number, longest) for number, (name, size) in enumerate(rows.items())
    }
    vocabulary = freeze(count(Tokenizer(pipeline)(pa.array(texts["train"][0]))))
    vocabulary = vocabulary if base is None else Vocabulary.read(base / VOCABULARY)
    encoder, splits = Encoder(pipeline, vocabulary), {}
    for name, (split_texts, split_labels) in texts.items():
        encoded = encoder(split_texts)
        classes = np.full_like(split_labels, NO_LABEL) if name == UNLABELLED else split_labels
        splits[name] = (
            arrays.pad_segments(encoded.ids, encoded.offsets, widths[-1]),
            np.diff(encoded.offsets),
            classes,
        )
    labels = ["negative", "positive"]
    if num_classes > 2 and label_sets is None:
        labels = [f"class{number}" for number in range(num_classes)]
    write_splits(root, splits, vocabulary, pipeline, labels, widths, block_rows)
    if label_sets is not None:
        write_manifest(root, replace(read_manifest(root), label_sets=label_sets))
    return {name: split_texts for name, (split_texts, _) in texts.items()}


def shared_dataset(rows: dict[str, int], *num_classes: int, **options: Any) -> Any:
    """A fixture: a dataset that the tests of a module share, and do not change, or one of each number of classes."""

    @pytest.fixture(scope="module", params=num_classes or None)
    def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("shared") / "data"
        write_dataset(root, rows, num_classes=getattr(request, "param", 2), **options)
        return root

    return dataset


def copy_of(name: str) -> Any:
    """A fixture: a copy, for each test, of the directory that another fixture makes."""

    @pytest.fixture
    def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return Path(shutil.copytree(request.getfixturevalue(name), tmp_path / name))

    return copy


class Row(NamedTuple):
    """A row as a shard has it."""

    split: str
    ids: list[int]
    label: int
    fold: int | None = None


def rows_by_number(root: Path, *splits: str) -> dict[int, Row]:
    """The rows of a dataset, or of some splits, by their number."""
    names = splits or read_manifest(root).splits
    return {number: row for name in names for number, row in rows_in(split_of(root, name)).items()}


def split_of(root: Path, name: str = "train") -> Split:
    """A split of a dataset."""
    return Split(root, read_manifest(root), name)


def rows_in(split: Split) -> dict[int, Row]:
    """The rows of a split by their number."""
    return {
        int(row): Row(split.name, ids[:length].tolist(), int(label), shard.info.fold)
        for shard in split.shards
        for block in shard.blocks
        for ids, length, label, row in zip(block.ids, block.length, block.label, block.row, strict=True)
    }


def texts_in(split: Split) -> list[np.ndarray]:
    """The ids of each row, in the order of the split."""
    return [ids[:length] for block in split.blocks for ids, length in zip(block.ids, block.length, strict=True)]


def count(tokens: Tokens) -> TokenCounts:
    """How often each type occurs in a batch of tokenized texts."""
    return TokenCounts(tokens.types, np.bincount(tokens.codes, minlength=len(tokens.types)).astype(np.int64))


def write_splits(
    root: Path,
    splits: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    vocabulary: Vocabulary,
    pipeline: TextPipeline,
    labels: list[str],
    widths: tuple[int, ...],
    block_rows: int,
) -> None:
    """Write a dataset directory of ids ``[rows, widths[-1]]``, lengths and labels of each split."""
    root.mkdir(parents=True, exist_ok=True)
    vocabulary.write(root / VOCABULARY)
    kind, shards = id_dtype(len(vocabulary)), list[ShardInfo]()
    for name, (ids, lengths, classes) in splits.items():
        rungs = np.searchsorted(widths, lengths)
        shards += [
            write_shard(
                root,
                name,
                0,
                Block(
                    ids[rungs == rung, :width].astype(kind),
                    lengths[rungs == rung],
                    classes[rungs == rung],
                    np.flatnonzero(rungs == rung),
                ),
                block_rows=block_rows,
            )
            for rung, width in enumerate(widths)
            if (rungs == rung).any()
        ]
    manifest = Manifest(
        labels,
        *write_index(root, shards),
        id_dtype=str(kind),
        block_rows=block_rows,
        vocabulary_size=len(vocabulary),
        vocabulary_hash=vocabulary.hash,
        text=pipeline.to_json(),
        text_hash=Encoder(pipeline, vocabulary).hash,
    )
    write_manifest(root, manifest)


def rewrite_shards(
    root: Path, folds: int = 0, **changes: dict[str, Callable[[np.ndarray], np.ndarray]]
) -> list[ShardInfo]:
    """Write all shards again, with columns of some splits that functions make of the old ones, and with ``folds`` each
    shard of training and validation in a fold, in turn.
    """
    manifest, infos = read_manifest(root), list[ShardInfo]()
    for split in manifest.splits:
        for number, shard in enumerate(Split(root, manifest, split).shards):
            columns = {
                name: np.concatenate([getattr(block, name) for block in shard.blocks])
                for name in ("ids", "length", "label", "row")
            }
            columns |= {name: change(columns[name]) for name, change in changes.get(split, {}).items()}
            fold = number % folds if folds and split not in (TEST, UNLABELLED) else shard.info.fold
            shard.path.unlink()
            content = Block(**columns)
            infos.append(
                write_shard(root, split, shard.info.number, content, fold=fold, block_rows=manifest.block_rows)
            )
    splits, index = write_index(root, infos)
    write_manifest(root, replace(manifest, splits=splits, index=index))
    return infos


def rewritten(root: Path, split: str, **columns: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change columns of a split."""
    rewrite_shards(root, **{split: columns})


def assign_folds(root: Path, folds: int) -> Manifest:
    """Give each shard of training and validation a fold; the new manifest."""
    rewrite_shards(root, folds)
    return read_manifest(root)
