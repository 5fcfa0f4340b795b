# SPDX-License-Identifier: Apache-2.0
"""Values of learning rates, row hashes and exit codes of the launcher; verdicts on ranks; what fits into memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.config import OptimConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over, row_hash
from harness.launch import launcher
from harness.launch.launcher import Failure
from harness.ranks.distributed import World
from harness.rundir.records import LAUNCH_ID, Ending, State, write_status
from harness.scores.calibration import Decision
from harness.training import run
from harness.training.optim import learning_rate
from harness.training.throughput import Counted, Meter, summarize
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset


def test_learning_rate_climbs_then_falls_to_zero() -> None:
    config = OptimConfig(lr=1.0, warmup=0.1, decay="linear")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.linspace(0.1, 1, 10))
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1 / 90)
    cosine = OptimConfig(lr=1.0, warmup=0.0, decay="cosine")
    assert learning_rate(50, 100, cosine) == pytest.approx(0.5)
    assert learning_rate(99, 100, OptimConfig(lr=0.3, warmup=0.0, decay="none")) == 0.3


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=40, unique=True), st.integers(0, 1000), st.data())
def test_row_hash_adds_up_over_any_split_and_sees_every_change(rows: list[int], step: int, data: st.DataObject) -> None:
    numbers = np.array(rows)
    cut = data.draw(st.integers(0, len(rows)))
    mask = (1 << 64) - 1
    whole = row_hash(numbers, step)
    assert (row_hash(numbers[cut:], step) + row_hash(numbers[:cut], step)) & mask == whole
    assert row_hash(numbers[1:], step) != whole
    assert row_hash(numbers, step + 1) != whole
    assert row_hash(np.append(numbers, numbers[0]), step) != whole


@pytest.mark.parametrize(
    ("state", "code", "failure", "expected"),
    [
        ("finished", 0, None, 0),
        ("failed", 3, Failure(1, "rank 0 ended with exit code 1"), 3),
        ("running", 0, Failure(1, "rank 1 was killed by SIGKILL"), 1),
        ("finished", 0, Failure(1, "rank 1 was killed by SIGKILL"), 1),
        ("preempted", 85, Failure(1, "the launcher stopped"), 85),
    ],
)
def test_exit_code_is_the_one_in_the_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    code: int,
    failure: Failure | None,
    expected: int,
) -> None:
    monkeypatch.setenv(LAUNCH_ID, "mine")
    write_status(tmp_path, Ending(state, exit_code=code))
    assert launcher.outcome(tmp_path, "mine", failure) == expected


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


def test_of_equally_good_weights_the_later_ones_are_kept_where_rows_are_few() -> None:
    def best(rows: int, *losses: float) -> int | None:
        selection = run.Selection("calibrated")
        for step, loss in enumerate(losses):
            values, left = {"calibrated_log_loss": loss, "rows": rows}, 1 - (step + 1) / len(losses)
            selection.agree(World(), values, step, Decision, left)
        return selection.best_step

    assert best(30, 0.50, 0.53, 0.56) == 2
    assert best(30, 0.50, 0.53, 0.80) == 1
    assert best(3000, 0.50, 0.55, 0.60) == 0
    assert best(3000, 0.501, 0.500, 0.500) == 2
