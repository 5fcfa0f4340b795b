# SPDX-License-Identifier: Apache-2.0
"""W&B through Accelerate's tracker: offline when there is no key, read back with W&B's own tool."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.commands import read_metrics, run_command, run_module, succeed
from tests.datasets import write_dataset

pytest.importorskip("wandb", reason="needs the extra wandb")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked")
    write_dataset(root / "data", {"train": 120, "validation": 30, "test": 30})
    arguments = ("--data", root / "data", "--run", root / "run", "--epochs", 2, "--tracking.log_every", 1)
    small = ("--model.embedding_dim", 8, "--model.hidden_size", 8, "--tracking.tracker", "wandb")
    home = {"HOME": str(root), "WANDB_DATA_DIR": str(root / "staging")}
    succeed(run_module("harness", "launch", *arguments, *small, **home))
    return root / "run"


def test_offline_history_equals_metrics_jsonl(run: Path) -> None:
    offline = list((run / "wandb").glob("offline-run-*"))
    assert len(offline) == 1
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(offline[0])]
    output = succeed(run_command(command, 120, {"HOME": str(run.parent)})).stdout
    records = [json.loads(line) for line in output.splitlines() if line.strip()]
    history = [record for record in records if record["type"] == "history"]
    losses = [value for record in history for value in find(record, "train/loss")]
    logged = read_metrics(run, "train")
    assert len(logged) == 4
    assert losses == pytest.approx([line["loss"] for line in logged])


def find(value: object, key: str) -> list[object]:
    """Every value that stands under ``key``, however deep, in order."""
    if isinstance(value, dict):
        if value.get("key") == key or value.get("nested_key") == [key]:
            raw = value.get("value_json", value.get("value"))
            return [json.loads(raw) if isinstance(raw, str) else raw]
        return [found for name, item in value.items() for found in ([item] if name == key else find(item, key))]
    if isinstance(value, list):
        return [found for item in value for found in find(item, key)]
    return []
