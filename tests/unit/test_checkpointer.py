# SPDX-License-Identifier: Apache-2.0
"""When a checkpoint is due by the clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from harness.config import CheckpointConfig
from harness.rundir import checkpoint
from harness.training.writer import Checkpointer


def test_the_first_checkpoint_of_a_start_comes_after_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoint, "write", lambda *_: None)
    due = []
    for every_s in (300.0, 20.0):
        saver = Checkpointer(tmp_path, CheckpointConfig(every_s=every_s), torch.device("cpu"), lambda: None)
        for seconds in (19, 2, 38, 2):
            now += seconds
            due.append(saver.is_due())
        saver.save({}, {"step": 1}, None, wait=True)
        for seconds in (61, 240):
            now += seconds
            due.append(saver.is_due())
    assert due == [False, False, False, True, False, True, False, True, True, True, True, True]
