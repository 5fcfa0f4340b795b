# SPDX-License-Identifier: Apache-2.0
"""Predictions are the same bytes by one process and by the workers of a shared directory: every row scored once (law
5).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from tests.bundles import write_run
from tests.commands import start_python
from tests.corpora import reviews, write_csv

pytestmark = pytest.mark.processes
ROWS = 3_000


@pytest.mark.timeout(240)
def test_two_workers_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    write_run(tmp_path, embedding_dim=8, hidden_size=8)
    write_csv(tmp_path / "in.csv", enumerate(text for text, _ in reviews(ROWS, words=12)), ("n", "text"))
    words = ["predict", tmp_path / "run", tmp_path / "in.csv", "--part_mb", 0.005, "--device", "cpu", "--quiet"]
    shared = ("--executor", "folder", "--scheduler", tmp_path / "queue")
    alone, by_two = ["--processes", 1, "-o", tmp_path / "one.csv"], [*shared, "-o", tmp_path / "two.csv"]
    assert main([*map(str, [*words, *alone])]) == 0
    here = {"CUDA_VISIBLE_DEVICES": "0"}
    told = ("-m", "harness", "work", tmp_path / "queue", "--processes", 1)
    workers = [start_python(*told, env=here) for _ in range(2)]
    assert main([*map(str, [*words, *by_two])]) == 0
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not (tmp_path / "two.csv.parts").exists()
