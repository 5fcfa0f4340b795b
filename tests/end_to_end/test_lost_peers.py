# SPDX-License-Identifier: Apache-2.0
"""A rank that is stopped (SIGSTOP) in mid-training: the other one says at which step it waited for what, and leaves.

One that fails alone ends at once, and is the cause that is named, also where its peers behave as under NCCL.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from harness.ranks.stopping import STOP_LIMIT_S
from tests.commands import ROOT
from tests.datasets import write_dataset
from tests.runs import launch, wait_for_step, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400, func_only=True)]


LIKE_NCCL = """
import os, sys, time
if "RANK" in os.environ and "torch" not in sys.modules:
    import torch.distributed
    from harness.ranks import distributed
    from harness.training.trainer import Trainer
    torch.distributed.destroy_process_group = lambda: time.sleep(3600)
    update = Trainer.update
    def failing(self, batch):
        if self.step == 20 and os.environ["RANK"] == "1":
            raise KeyError("planted")
        return update(self, batch)
    Trainer.update = failing
    distributed.LostPeerError.__init__ = lambda self, *_: os.abort()
"""
"""A ``sitecustomize`` module: rank 1 fails alone, leaving the process group waits for ranks that do not come, and a
rank whose peer is gone is aborted, as NCCL's watchdog does."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lost") / "data"
    write_dataset(path, {"train": 1500, "validation": 300, "test": 300})
    return path


@pytest.mark.parametrize(("way", "timeout_s"), [("limit", 5), ("signal", 600)])
def test_a_stopped_rank_is_noticed(data: Path, tmp_path: Path, way: str, timeout_s: int) -> None:
    run = tmp_path / "run"
    process = launch(data, run, "--timeout_s", str(timeout_s))
    family: list[psutil.Process] = []
    try:
        wait_for_step(process, run, 20)
        family = psutil.Process(process.pid).children(recursive=True)
        ranks = {one.environ()["RANK"]: one for one in family if "harness.train" in " ".join(one.cmdline())}
        ranks["1"].send_signal(signal.SIGSTOP)
        asked = time.monotonic()
        if way == "signal":
            time.sleep(1.0)  # rank 0 is inside a collective by now
            ranks["0"].send_signal(signal.SIGTERM)
        wait_until(lambda: not ranks["0"].is_running() or ranks["0"].status() == psutil.STATUS_ZOMBIE, 120)
        assert time.monotonic() - asked < (timeout_s if way == "limit" else STOP_LIMIT_S) + 60
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["exit_code"]) == ("failed", 1)
        step = int(status["reason"].split("step ")[1].split()[0])
        assert step >= 20
        waited = (
            f"rank 0 at step {step} waited" if way == "limit" else f"rank 0 was told to stop at step {step} and waited"
        )
        assert status["reason"].startswith(waited)
        assert "from 1 other ranks" in status["reason"]
        assert status["reason"] in (run.parent / "log").read_text()
    finally:
        for one in [process, *family]:
            with suppress(psutil.NoSuchProcess):  # the launcher has ended it in the meantime
                one.send_signal(signal.SIGKILL)
        process.wait(30)


def test_a_rank_that_fails_alone_is_the_cause_and_hangs_nobody(data: Path, tmp_path: Path) -> None:
    """The time limit is an hour; this test allows for five minutes."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(LIKE_NCCL)
    run = tmp_path / "run"
    process = launch(data, run, "--timeout_s", "3600", paths=f"{tmp_path / 'site'}:{ROOT}")
    assert process.wait(300) == 1, (tmp_path / "log").read_text()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("failed", "rank 1: KeyError: 'planted'")
