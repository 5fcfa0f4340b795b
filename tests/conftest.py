# SPDX-License-Identifier: Apache-2.0
"""What several test files need: where the language data and the corpus for tests are, and who may start processes.

A test starts no process unless it is marked ``processes``, ``slow`` or ``night``: this is what makes ``make test-fast``
fast, and it is checked here. Fixtures count as part of the test that needs them first.
"""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.testing  # noqa: F401  here: numpy 1.26 starts a process (lscpu) for it, and scipy imports it inside a test
import pytest
import sklearn  # noqa: F401  here: old threadpoolctl starts one (ldconfig)

_SHARED = Path(__file__).resolve().parents[2] / "shared"
NLTK_DATA = _SHARED / "nltk_data"
IMDB = _SHARED / "data" / "imdb" / "train.parquet"
MAY_START = ("processes", "slow", "night")

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of one test do not spin while another one computes
if NLTK_DATA.is_dir():  # before anything imports nltk, which reads this once; worker processes inherit it
    os.environ.setdefault("NLTK_DATA", str(NLTK_DATA))


def pytest_configure(config: pytest.Config) -> None:
    """Workers take files in the order below, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: they take longest, and no long one is left for the end."""
    long = {item.path for item in items if may_start(item)}
    items.sort(key=lambda item: item.path not in long)


def may_start(item: pytest.Item) -> bool:
    """Whether a test may start processes."""
    return any(item.get_closest_marker(name) for name in MAY_START)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Refuse to start processes in a test that is not marked; end what one that is marked has launched and left."""
    if may_start(item):
        try:
            return (yield)
        finally:
            if runs := sys.modules.get("tests.runs"):
                runs.end_what_was_launched()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"{item.name} starts a process: mark it processes", pytrace=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(os, "fork", refuse)
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many damaged files ``tests/fuzz`` has tried, and how fast."""
    every = [report for found in terminalreporter.stats.values() for report in found]
    calls = [report for report in every if isinstance(report, pytest.TestReport) and report.when == "call"]
    figures = [value for report in calls for name, value in report.user_properties if name == "fuzz"]
    if figures:
        cases, seconds = map(sum, zip(*figures, strict=True))
        terminalreporter.write_line(f"fuzz: {cases:,} damaged files in {seconds:.1f} s, {cases / seconds:.0f} a second")


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
