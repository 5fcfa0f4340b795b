# SPDX-License-Identifier: Apache-2.0
"""One run directory for all machines: what rank 0 writes there is looked for, and nothing of it is left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.ranks.distributed import World
from harness.training.assembly import check_shared
from preprocessing.base.errors import ConfigError, DataError


class OnAnotherMachine(World):
    """A rank that is told of a file by rank 0; with ``together`` as of one process."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [("node-a", ".seen-there") if "file" in what else value]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.usefixtures("several")
def test_rank_0_sees_its_own_file_and_removes_it(tmp_path: Path) -> None:
    check_shared(tmp_path, World())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=rf"^{tmp_path / 'gone'}: gone while it was needed .*; put it back"):
        check_shared(tmp_path / "gone", World())


@pytest.mark.usefixtures("several")
def test_a_machine_with_a_directory_of_its_own_says_so(tmp_path: Path) -> None:
    started = time.monotonic()
    said = rf"run: {tmp_path} on .* is not the directory of that name on node-a, which holds the checkpoints"
    with pytest.raises(ConfigError, match=said):
        check_shared(tmp_path, OnAnotherMachine(rank=1, timeout_s=1))
    assert time.monotonic() - started < 60
