# SPDX-License-Identifier: Apache-2.0
"""Datasets that the tests on a card share, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets import write_dataset
from tests.gpu.corpus import write_corpus
from tests.gpu.device import REVIEWS


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short texts, few words."""
    root = tmp_path_factory.mktemp("data") / "dataset"
    write_dataset(root, {"train": 400, "validation": 60, "test": 60})
    return root


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts as long as film reviews, and words with ids of 32,768 and more."""
    root = tmp_path_factory.mktemp("data") / "reviews"
    write_corpus(root, {"train": REVIEWS, "validation": 64, "test": 64}, block_rows=128)
    return root
