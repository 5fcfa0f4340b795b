# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.helpers.attempt RUN FIRST LAST STATE``: one attempt of a run as its tracker sees it, without
training.

It logs steps FIRST to LAST and closes its tracker with STATE, with minutes for W&B to start and end on a busy machine.
Prints as JSON the seconds that the longest call of ``log`` took, and those of the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.config import RunConfig, TrackingConfig
from harness.output import tracking, wandb_run
from harness.rundir.events import Opening
from harness.rundir.records import Ending
from padless.core import atomic

_MANIFEST: Any = SimpleNamespace(fingerprint="0123456789abcdef")
OPENING = Opening(manifest=_MANIFEST, total_steps=20, first_step=0, choices={})
PATIENCE_S = float(os.environ.get("PATIENCE_S", "150"))


def main(run: Path, first: int, last: int, state: str) -> None:
    """One attempt."""
    tracking.FINISH_S = tracking.SHORT_FINISH_S = PATIENCE_S
    wandb_run.WandbTracker.finish_s = PATIENCE_S - 2
    settings = TrackingConfig(tracker="wandb", project="p")
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("data: d\ntracking: {project: p}\n")
    (run / "status.json").write_text(json.dumps({"state": state}))
    observer = tracking.TrackerObserver(RunConfig(data="d", run=str(run), tracking=settings))
    observer.start(OPENING)
    longest_s = 0.0
    for step in range(first, last + 1):
        time.sleep(0.05)
        values = {"step": step, "loss": 1 / step, "lr": 1e-3}
        atomic.append_line(run / "metrics.jsonl", json.dumps({"kind": "train", **values}))
        began = time.perf_counter()
        observer.log("train", values)
        longest_s = max(longest_s, time.perf_counter() - began)
    began = time.perf_counter()
    observer.close(Ending(state, last))  # type: ignore[arg-type]
    print(json.dumps({"longest_s": longest_s, "end_s": time.perf_counter() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
