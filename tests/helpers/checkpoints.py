# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in milliseconds: made-up tensors and a complete state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness.config import RunConfig
from harness.data import order
from harness.rundir import checkpoint
from harness.training.validation import Selection
from preprocessing.dataset.shards import read_manifest

TENSORS = {name: {"weight": torch.zeros(1)} for name in (checkpoint.MODEL, checkpoint.OPTIMIZER)}
INTERVAL_COUNTS = {"rows": 8, "tokens": 90, "padded_tokens": 100, "hash": (1 << 64) - 1, "loss": "0x1.8p+2"}


def state_of(step: int, **changes: Any) -> dict[str, Any]:
    """The state of a training at a step, updated with ``changes``."""
    trainer = {
        **{"step": step, "epochs_done": 0, "recurrence": "padded"},
        **{"scaler": None, "counted": [INTERVAL_COUNTS]},
    }
    state = {
        **{"step": step, "trainer": trainer, "selection": Selection("accuracy").state(), "dataset": "d"},
        **{"config": {}, "log_bytes": {"metrics.jsonl": 0, "throughput.jsonl": 0}, "seconds": 0.0},
        "order_version": order.VERSION,
    }
    return state | changes


def facts_of(config: RunConfig, **changes: Any) -> dict[str, Any]:
    """What the state of a run of ``config`` says of its data and its settings, updated with ``changes``."""
    return {"dataset": read_manifest(config.data).fingerprint, "config": asdict(config), **changes}


def write(run: Path, step: int, **changes: Any) -> None:
    """Write a checkpoint whose state is updated with ``changes``."""
    checkpoint.write(run, step, TENSORS, state_of(step, **changes))
