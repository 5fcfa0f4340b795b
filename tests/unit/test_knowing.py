# SPDX-License-Identifier: Apache-2.0
"""What the trainer knows of itself: figures of a log line, verdicts, averages, what fits, what would do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import check_useful
from harness.data.order import Order, OrderSpec
from harness.ranks.distributed import World
from harness.training.ema import WeightAverage
from harness.training.flops import flops_per_token, measure_peak
from harness.training.probe import choose_micro_batch, heaviest_step, rehearse
from harness.training.throughput import FLOATS, INTEGERS, summarize
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset


def ranks(**columns: list[float]) -> dict[str, np.ndarray]:
    """Two ranks that each took 100 rows of 50 tokens in two seconds, changed by ``columns``."""
    values: dict[str, list[float]] = {name: [0, 0] for name in (*INTEGERS, *FLOATS)}
    values |= {"rows": [100, 100], "tokens": [5000, 5000], "padded_tokens": [5100, 5100], "loss": [60.0, 80.0]}
    values |= {"forward_s": [0.5, 0.5], "seconds": [2.0, 2.0], **columns}
    return {name: np.array(column, np.int64 if name in INTEGERS else float) for name, column in values.items()}


def test_figures_of_a_log_line() -> None:
    figures = summarize(ranks(), flops_per_token=1000, peak_flops=1e7)
    assert figures["loss"] == 0.7
    assert (figures["rows"], figures["rows_per_s"], figures["tokens_per_s"]) == (200, 100, 5000)
    assert figures["padding"] == pytest.approx(1 - 5000 / 5100)
    assert figures["mfu"] == pytest.approx(0.5)
    assert figures["verdict"] is None
    assert summarize(ranks(), 1000, 0.0)["mfu"] is None


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"wait_s": [0.0, 0.8]}, "data-bound on rank 1: it waited 40% of the time"),
        ({"padded_tokens": [10_000, 10_000]}, "padding is 50% of what is computed"),
        ({"forward_s": [0.5, 1.0]}, "rank 1 computes 50% slower than rank 0"),
    ],
)
def test_a_verdict_names_what_is_wrong(columns: dict[str, list[float]], words: str) -> None:
    verdict = summarize(ranks(**columns), 0, 0.0)["verdict"]
    assert verdict is not None
    assert verdict.startswith(words)


def test_flops_count_the_gates_of_every_layer_and_direction() -> None:
    assert flops_per_token(ModelConfig(embedding_dim=10, hidden_size=20, bidirectional=False)) == 6 * 4 * 20 * 30
    two = ModelConfig(embedding_dim=10, hidden_size=20, num_layers=2)
    assert flops_per_token(two) == 6 * 2 * 4 * 20 * (10 + 20 + 40 + 20)
    assert measure_peak(torch.device("cpu"), "fp32") > 1e8


def test_average_follows_the_weights_and_is_only_lent() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.5)
    torch.nn.init.constant_(model.weight, 8.0)
    average.update(step=0)
    with average.swapped():
        assert model.weight.item() == pytest.approx(8.0 * 0.9)
    assert model.weight.item() == 8.0
    average.update(step=1000)
    assert average.average[0].item() == pytest.approx((7.2 + 8.0) / 2)


def test_the_heaviest_step_is_the_one_with_the_longest_row() -> None:
    lengths = np.arange(1, 101)
    order = Order(
        np.array([0, 50, 100]), lambda block: lengths[50 * block : 50 * block + 50], OrderSpec(seed=0, global_batch=10)
    )
    step = heaviest_step(order, lambda row: int(lengths[row]))
    assert 99 in order.batch_rows(0, step)


def test_micro_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def attempt(limit: int):
        def run(rows: int) -> None:
            tried.append(rows)
            if rows > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")

        return run

    tried: list[int] = []
    rows, choice = choose_micro_batch(100, attempt(30), World(), torch.device("cuda"))
    assert (rows, tried) == (25, [100, 50, 25])
    assert str(choice) == "25 rows: 50 rows ran out of memory"
    assert choose_micro_batch(100, attempt(100), World(), torch.device("cuda"))[0] is None
    with pytest.raises(ConfigError, match="one row of the longest text does not fit"):
        choose_micro_batch(4, attempt(0), World(), torch.device("cuda"))


def test_a_rehearsal_scales_to_the_full_run() -> None:
    cost = rehearse(lambda: 500, lambda: 123)
    assert (cost.tokens, cost.memory_bytes) == (500, 123)
    assert cost.full_run_s(5000) == pytest.approx(10 * cost.step_s)


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 64, "validation": 10, "test": 10})
    manifest = read_manifest(tmp_path)
    with pytest.raises(ConfigError, match=r"class_weights\.good: the dataset has no such label; it has negative"):
        check_useful(RunConfig(optim=OptimConfig(class_weights={"good": 2.0})), manifest, 1)
    with pytest.raises(ConfigError, match="gradient_compression: one process sends no gradients"):
        check_useful(RunConfig(optim=OptimConfig(gradient_compression="bf16")), manifest, 1)
    with pytest.raises(ConfigError, match="profile: step 9 never comes: the run has 4 steps"):
        check_useful(RunConfig(profile=[1, 9]), manifest, 1)
    with pytest.raises(ConfigError, match="patience: 4 is out of range"):
        RunConfig(patience=4, epochs=4)
    check_useful(RunConfig(optim=OptimConfig(gradient_compression="bf16"), profile=[0, 3]), manifest, 2)
