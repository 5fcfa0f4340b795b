# SPDX-License-Identifier: Apache-2.0
"""Predictions are the same bytes by one process and by two shares, one of which is killed and started again: every
row scored once (law 5).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from padless.commands import main
from tests.helpers.bundles import write_run
from tests.helpers.commands import start_python
from tests.helpers.corpora import reviews, write_csv

pytestmark = pytest.mark.processes
ROWS = 3_000


@pytest.mark.timeout(240)
def test_two_shares_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    write_run(tmp_path, embedding_dim=8, hidden_size=8)
    write_csv(tmp_path / "in.csv", enumerate(text for text, _ in reviews(ROWS, words=12)), ("n", "text"))
    words = ["predict", tmp_path / "run", tmp_path / "in.csv", "--source.part_mb", 0.005, "--device", "cpu", "--quiet"]
    words += ["--processes", 1, "-o"]
    assert main([*map(str, [*words, tmp_path / "one.csv"])]) == 0
    shared, parts = ["-m", "padless", *words, tmp_path / "two.csv", "--share"], tmp_path / "two.csv.parts"
    leader, follower = (start_python(*shared, share) for share in ("2/2", "1/2"))
    while not any(parts.glob("*-00003.json")):
        assert (leader.poll(), follower.poll()) == (None, None)
        time.sleep(0.001)
    follower.kill()
    assert follower.wait(60) == -9
    numbers = range(len([*parts.glob("sources/*.arrow")]))
    finished_parts = [number for number in numbers[1::2] if any(parts.glob(f"*-{number:05d}.json"))]
    assert 2 <= len(finished_parts) < len(numbers) // 2 - 1
    restarted_follower = start_python(*shared, "1/2")
    assert [restarted_follower.wait(60), leader.wait(60)] == [0, 0]
    assert (tmp_path / "two.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert not parts.exists()
