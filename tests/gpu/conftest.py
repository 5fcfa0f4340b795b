# SPDX-License-Identifier: Apache-2.0
"""Datasets that the tests on a card share, made once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from padless.core.errors import ConfigError
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary
from tests.gpu.device import REVIEWS, describe_machine
from tests.helpers.datasets import shared_dataset, write_splits

MAX_LENGTH, VOCABULARY_SIZE = 400, 40_000
FIRST_TELLING, NUM_TELLING = 33_000, 50
"""Words that show a class: their ids are negative as int16, so nothing is learned by code that loses the sign bit."""


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """A device that can be used: no proof passes beside a card that is not used."""
    describe_machine()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the proof ran on."""
    with suppress(ConfigError):
        for line in describe_machine():
            terminalreporter.write_line(line)


dataset = shared_dataset({"train": 400, "validation": 60, "test": 60})
"""Short texts, few words."""


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts as long as film reviews, of random words by Zipf's law; lengths are a log-normal with the median 174."""
    root = tmp_path_factory.mktemp("data") / "reviews"
    random, splits = np.random.default_rng(0), {}
    for name, rows in {"train": REVIEWS, "validation": 64, "test": 64}.items():
        lengths = np.clip(np.exp(random.normal(np.log(174), 0.75, rows)), 10, MAX_LENGTH).astype(np.int64)
        classes, shape = random.integers(0, 2, rows), (rows, MAX_LENGTH)
        ids = random.zipf(1.3, shape) % (VOCABULARY_SIZE - len(RESERVED)) + len(RESERVED)
        telling = FIRST_TELLING + NUM_TELLING * classes[:, None] + random.integers(0, NUM_TELLING, shape)
        ids = np.where(random.random(shape) < 0.06, telling, ids)
        splits[name] = np.where(np.arange(MAX_LENGTH) < lengths[:, None], ids, 0), lengths, classes
    words = [*RESERVED, *(f"w{number}" for number in range(len(RESERVED), VOCABULARY_SIZE))]
    vocabulary = Vocabulary(pa.array(words, pa.large_string()), np.ones(VOCABULARY_SIZE, np.int64))
    pipeline, widths = resolve_pipeline(TextSpec(max_tokens=MAX_LENGTH)), (64, 128, 256, MAX_LENGTH)
    write_splits(root, splits, vocabulary, pipeline, ["negative", "positive"], widths, 128)
    return root
