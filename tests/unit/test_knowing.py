# SPDX-License-Identifier: Apache-2.0
"""Checks of the trainer: verdicts, averages, memory limits, options without effect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.ranks.distributed import World
from harness.training import run
from harness.training.throughput import Counted, Meter, summarize
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset


def ranks(**columns: list[float]) -> list[dict[str, Any]]:
    """Two ranks that each took 100 rows of 50 tokens in two seconds, changed by ``columns``."""
    values = {"wait_s": 0.0, "forward_s": 0.5, "seconds": 2.0, "memory_bytes": 0}
    values |= Counted(rows=100, tokens=5000, padded_tokens=5100).plain()
    columns = {"loss": [60.0, 80.0], **columns}
    return [values | {name: column[rank] for name, column in columns.items()} for rank in range(2)]


def test_a_slow_rank_is_named_when_that_lasts() -> None:
    slow, steady = ranks(forward_s=[0.5, 1.0]), ranks()
    meter = Meter()
    said = [summarize(line, meter)["verdict"] for line in (slow, slow, steady, slow, slow, slow, slow)]
    sentence = "rank 1 is 50% slower than the fastest; look at its device and its users"
    assert said == [None] * 5 + [sentence, None]


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    root = tmp_path_factory.mktemp("probe")
    write_dataset(root, {"train": 300, "validation": 10})
    split = Split(root, read_manifest(root), "train")
    order = order_over(split, OrderSpec(seed=0, global_batch=10))
    return Loader(split, order, rank=0, world_size=1, layout="padded", device=torch.device("cpu"))


def fake_trainer(loader: Loader, device: str) -> Any:
    return SimpleNamespace(loader=loader, world=World(), device=torch.device(device))


def test_micro_batch_is_halved_until_it_fits(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    trainer = fake_trainer(loader, "cuda")
    for limit, rows in ((3, 3), (10, 10)):
        monkeypatch.setattr(run, "runs_out_of_memory", lambda one, limit=limit: one.loader.micro_batch > limit)
        assert run.choose_micro_batch(trainer).value == f"{rows} rows"
        assert loader.micro_batch == rows
    monkeypatch.setattr(run, "runs_out_of_memory", lambda one: True)
    with pytest.raises(ConfigError, match="one row of the longest text does not fit"):
        run.choose_micro_batch(trainer)
    assert run.choose_micro_batch(fake_trainer(loader, "cpu")).value == "no limit"
