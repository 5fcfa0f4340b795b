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

from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary
from tests.datasets import write_splits

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


def write_corpus(
    root: Path, rows: dict[str, int], *, seed: int = 0, block_rows: int = 1024, labels: Sequence[str] = LABELS
) -> None:
    """Write a dataset directory with these splits and labels: words by Zipf's law, some that show the label."""
    random, splits = np.random.default_rng(seed), {}
    for name, size in rows.items():
        drawn = np.exp(random.normal(np.log(MEDIAN), SIGMA, size))
        lengths = np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)
        classes, shape = random.integers(0, len(labels), size), (size, LONGEST)
        ids = random.zipf(1.3, shape) % (VOCABULARY_SIZE - len(RESERVED)) + len(RESERVED)
        telling = TELLING + NUM_TELLING * classes[:, None] + random.integers(0, NUM_TELLING, shape)
        ids = np.where(random.random(shape) < SHARE, telling, ids)
        splits[name] = np.where(np.arange(LONGEST) < lengths[:, None], ids, 0), lengths, classes
    words = [*RESERVED, *(f"w{number}" for number in range(len(RESERVED), VOCABULARY_SIZE))]
    vocabulary = Vocabulary(pa.array(words, pa.large_string()), np.ones(VOCABULARY_SIZE, np.int64))
    pipeline = resolve(TextSpec(max_tokens=LONGEST))
    write_splits(root, splits, vocabulary, pipeline, list(labels), WIDTHS, block_rows)
