# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.attempt RUN DATA FIRST LAST STATE``: one attempt of a run as its trackers see it, without training.

It logs steps FIRST to LAST and closes its trackers with STATE.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from harness.config import RunConfig, TrackingConfig
from harness.rundir.records import Ending
from harness.tracking.tracking import Trackers


def main(run: Path, data: str, first: int, last: int, state: str) -> None:
    """One attempt."""
    config = RunConfig(data=data, run=str(run), tracking=TrackingConfig(tracker="wandb", project="p", tags=["tagged"]))
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("data: d\ntracking: {project: p}\n")
    (run / "status.json").write_text(json.dumps({"state": state}))
    trackers = Trackers(config, run, facts={"dataset": "0123456789abcdef"})
    with open(run / "metrics.jsonl", "a") as file:
        for step in range(first, last + 1):
            time.sleep(0.05)
            file.write(json.dumps({"kind": "train", "step": step, "loss": 1 / step, "lr": 1e-3}) + "\n")
            file.flush()
            trackers.log("train", {})
    trackers.close(Ending(state, last))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
