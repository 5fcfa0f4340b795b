# SPDX-License-Identifier: Apache-2.0
"""What several test files need: where the language data and the corpus for tests are, and who may start processes.

A test starts no process unless it is marked ``processes``, ``slow`` or ``night``: this is what makes ``make test-fast``
fast, and it is checked here. Fixtures count as part of the test that needs them first. What a marked test leaves
running is killed when it ends. The programs that tests start obey signals, whichever shell started pytest.

A test of properties tries the same cases every time, so that a change is not refused for a fault that it does not have;
``--hypothesis-profile night`` tries others, and ten times as many.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import signal
import subprocess
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import hypothesis
import numpy.testing  # noqa: F401  here: numpy 1.26 starts a process (lscpu) for it, and scipy imports it inside a test
import psutil
import pytest
import sklearn  # noqa: F401  here: old threadpoolctl starts one (ldconfig)

from padless.core.fork_server import SERVER

_SHARED = Path(__file__).resolve().parents[2] / "shared"
NLTK_DATA = _SHARED / "nltk_data"
IMDB = _SHARED / "data" / "imdb" / "train.parquet"
MAY_START = ("processes", "slow", "night")
STARTED_BY = "PADLESS_TEST"
"""Environment variable: the test that started a process, to find processes that outlive their parents."""

UNLIMITED = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
hypothesis.settings.register_profile("same", max_examples=20, derandomize=True, **UNLIMITED)
hypothesis.settings.register_profile("night", max_examples=200, print_blob=True, **UNLIMITED)
hypothesis.settings.load_profile("same")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of one test do not spin while another one computes
THREADS_ARE_FREE = "OMP_NUM_THREADS" not in os.environ
if THREADS_ARE_FREE:  # torch reads it when test files import it; their tiny networks gain nothing by threads
    os.environ["OMP_NUM_THREADS"] = "1"
if NLTK_DATA.is_dir():  # before anything imports nltk, which reads this once; worker processes inherit it
    os.environ.setdefault("NLTK_DATA", str(NLTK_DATA))
# nohup and background jobs of scripts ignore these, and what is ignored stays so over exec. What is caught becomes the
# default there: pytest still survives a hangup, and the programs that it starts obey as those of any shell do.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),  # some tests interrupt pytest's own process
    (signal.SIGHUP, lambda *_: None),
    (signal.SIGQUIT, lambda *_: None),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_configure(config: pytest.Config) -> None:
    """Workers take files in the order below, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Programs that tests start choose the number of their threads."""
    if THREADS_ARE_FREE:
        os.environ.pop("OMP_NUM_THREADS", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes first: they take longest, and no long one is left for the end."""
    long = {item.path for item in items if may_start(item)}
    items.sort(key=lambda item: item.path not in long)


def may_start(item: pytest.Item) -> bool:
    """Whether a test may start processes."""
    return any(item.get_closest_marker(name) for name in MAY_START)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Refuse to start processes in a test that is not marked."""
    if may_start(item):
        return (yield)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"{item.name} starts a process: mark it processes", pytrace=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(os, "fork", refuse)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    """Kill the processes that a test starts and leaves; what its fixtures started, they end."""
    if not may_start(item):
        return (yield)
    processes_at_start = set(psutil.Process().children(recursive=True))
    os.environ[STARTED_BY] = f"{os.getpid()} {item.nodeid}"
    try:
        return (yield)
    finally:
        kill_leftover_processes(processes_at_start, os.environ.pop(STARTED_BY))


def kill_leftover_processes(processes_at_start: set[psutil.Process], name: str) -> None:
    """SIGKILL for children that are not in ``processes_at_start``, for theirs, and for orphans started under ``name``.

    Servers that fork processes stay: they serve other tests, and end with this process.
    """
    new_processes = set(psutil.Process().children(recursive=True)) - processes_at_start
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(STARTED_BY) == name:
            new_processes.add(process)
    servers = [os.getpid(), forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid]
    servers += [SERVER.process.pid] if SERVER.process else []
    leftovers = [process for process in new_processes if process.pid not in servers]
    for process in leftovers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(leftovers, timeout=20)


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


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a linear part; beside it, in ``out``, its export with a network, which takes seconds."""
    from tests.helpers.report_runs import export, make_run

    run = make_run(tmp_path_factory.mktemp("exported"), pooling="max+mean", wide=256)
    words = ("--onnx", "--quiet", "--license", "mit")
    assert export(run, "--output", run.parent / "out", *words) == 0
    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    """``padless`` in this process; keeps what it printed."""
    from tests.helpers.corpora import Command

    return Command(capsys)
