# SPDX-License-Identifier: Apache-2.0
"""What several test files need: where the language data and the corpus for tests are, when they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"
NLTK_DATA = _SHARED / "nltk_data"
IMDB = _SHARED / "data" / "imdb" / "train.parquet"

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of one test do not spin while another one computes
if NLTK_DATA.is_dir():  # before anything imports nltk, which reads this once; worker processes inherit it
    os.environ.setdefault("NLTK_DATA", str(NLTK_DATA))


@pytest.fixture(scope="session")
def nltk_data() -> Path:
    """The folder of NLTK's data; skips without it."""
    if not NLTK_DATA.is_dir():
        pytest.skip(f"needs NLTK's stopwords, wordnet and punkt_tab in {NLTK_DATA}")
    return NLTK_DATA


@pytest.fixture(scope="session")
def imdb() -> list[str]:
    """IMDB's 25,000 labelled training reviews, raw; skips without them."""
    if not IMDB.is_file():
        pytest.skip(f"needs IMDB's training reviews in {IMDB}")
    import pyarrow.parquet as pq

    return pq.read_table(IMDB, columns=["text"])["text"].to_pylist()
