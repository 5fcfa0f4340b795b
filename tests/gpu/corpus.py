# SPDX-License-Identifier: Apache-2.0
"""A dataset with the lengths of film reviews, made of random numbers in a second or two, without any text.

Lengths follow a log-normal with the median (174) and the mean (230) of IMDB's reviews in words, cut at 400 as a
``text.max_tokens`` of 400 would. The words that show a class have ids of 32,768 and more, which are negative as int16:
nothing can be learned by code that loses the sign bit on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.dataset.shards import VOCABULARY, Manifest, id_dtype, write_manifest, write_shard
from preprocessing.text.encoder import Encoder
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary

MEDIAN, MEAN, SHORTEST, LONGEST = 174, 230, 10, 400
SIGMA = float(np.sqrt(2 * np.log(MEAN / MEDIAN)))
"""The mean of a log-normal is its median times exp(sigma² / 2)."""
WIDTHS = (64, 128, 192, 256, 320, 400)
VOCABULARY_SIZE = 40_000
TELLING = 33_000
"""Ids from here on show class 0, the next ``NUM_TELLING`` class 1, and so on."""
NUM_TELLING = 50
LABELS = ("negative", "positive")
SHARE = 0.06
"""Share of a text's words that show its class."""


def review_lengths(rows: int, random: np.random.Generator) -> np.ndarray:
    """int64 ``[rows]``."""
    drawn = np.exp(random.normal(np.log(MEDIAN), SIGMA, rows))
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)


def review_ids(lengths: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """int64 ``[rows, LONGEST]``: words by Zipf's law, some that show the label, 0 beyond each length."""
    size = (len(lengths), LONGEST)
    ids = random.zipf(1.3, size) % (VOCABULARY_SIZE - len(RESERVED)) + len(RESERVED)
    telling = TELLING + NUM_TELLING * labels[:, None] + random.integers(0, NUM_TELLING, size)
    ids = np.where(random.random(size) < SHARE, telling, ids)
    return np.where(np.arange(LONGEST) < lengths[:, None], ids, 0)


def write_corpus(
    root: Path, rows: dict[str, int], *, seed: int = 0, block_rows: int = 1024, labels: Sequence[str] = LABELS
) -> None:
    """Write a dataset directory with these splits and labels."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    words = [*RESERVED, *(f"w{number}" for number in range(len(RESERVED), VOCABULARY_SIZE))]
    vocabulary = Vocabulary(pa.array(words, pa.large_string()), np.ones(VOCABULARY_SIZE, np.int64))
    vocabulary.write(root / VOCABULARY)
    pipeline = resolve(TextSpec(max_tokens=LONGEST))
    kind = id_dtype(VOCABULARY_SIZE)
    splits = {}
    for name, size in rows.items():
        lengths, classes = review_lengths(size, random), random.integers(0, len(labels), size)
        ids = review_ids(lengths, classes, random).astype(kind)
        rung = np.searchsorted(WIDTHS, lengths)
        splits[name] = [
            write_shard(
                root,
                f"{name}/00000-w{width:04d}.arrow",
                ids[rung == place, :width],
                lengths[rung == place],
                classes[rung == place],
                np.flatnonzero(rung == place),
                block_rows=block_rows,
            )
            for place, width in enumerate(WIDTHS)
            if (rung == place).any()
        ]
    write_manifest(
        root,
        Manifest(
            labels=list(labels),
            splits=splits,
            id_dtype=str(kind),
            block_rows=block_rows,
            vocabulary_size=VOCABULARY_SIZE,
            vocabulary_hash=vocabulary.hash,
            text=pipeline.to_json(),
            text_hash=Encoder(pipeline, vocabulary).hash,
        ),
    )
