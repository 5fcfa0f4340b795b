# SPDX-License-Identifier: Apache-2.0
"""Unlabelled rows beside labelled ones: each once a pass, on any number of ranks, from any step on (law 3)."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, Layout, StepBatch
from harness.config import OrderConfig, RunConfig
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over, row_hash, stream_seed
from harness.ranks.distributed import World
from harness.training.console import facts
from harness.training.guard import NonFiniteGuard
from harness.training.probe import heaviest_batch
from harness.training.throughput import Meter
from preprocessing.base.split_names import NO_LABEL
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

CPU = torch.device("cpu")
SEED, BATCH, UNLABELLED_BATCH = 3, 20, 17
LABELLED, UNLABELLED = 90, 61
"""Five steps an epoch, four a pass."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": LABELLED, "validation": 10, "unlabelled": UNLABELLED}, block_rows=16)
    return root


def split_of(dataset: Path, name: str) -> Split:
    return Split(dataset, read_manifest(dataset), name)


def unlabelled_order(split: Split) -> Order:
    return order_over(split, OrderSpec(seed=stream_seed(SEED), global_batch=UNLABELLED_BATCH))


def labelled(dataset: Path, kind: type[Loader] = Loader, layout: Layout = "padded", **options: Any) -> Any:
    split = split_of(dataset, "train")
    chosen: dict[str, Any] = {"rank": 0, "world_size": 1, "layout": layout, "device": CPU, **options}
    return kind(split, order_over(split, OrderSpec(seed=SEED, global_batch=BATCH)), **chosen)


def paired(dataset: Path, layout: Layout = "padded", targets: np.ndarray | None = None, **options: Any) -> Loader:
    split = split_of(dataset, "unlabelled")
    chosen: dict[str, Any] = {"rank": 0, "world_size": 1, "layout": layout, "device": CPU, **options}
    beside = Loader(split, unlabelled_order(split), targets=targets, **chosen)
    return labelled(dataset, Loader, layout, unlabelled=beside, **options)


def rows_beside(steps: Any) -> list[list[int]]:
    return [[int(row) for batch in step.unlabelled for row in batch.rows] for step in steps]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_each_row_once_in_every_pass_on_any_number_of_ranks(
    dataset: Path, world_size: int, micro_batch: int | None
) -> None:
    loaders = [paired(dataset, rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)]
    split = loaders[0].unlabelled.split
    order, numbers = unlabelled_order(split), np.concatenate([block.row for block in split.blocks])
    per_epoch, found = loaders[0].order.steps_per_epoch, []
    for epoch in range(4):
        shares = [rows_beside(loader.steps(epoch)) for loader in loaders]
        found += [sorted(row for share in shares for row in share[step]) for step in range(per_epoch)]
    assert len(found) == 4 * 5 == 5 * order.steps_per_epoch
    for step, rows in enumerate(found):
        assert rows == sorted(numbers[order.batch_rows(*divmod(step, 4))].tolist())
    for first in range(0, 20, 4):
        assert sorted(row for step in found[first : first + 4] for row in step) == list(range(UNLABELLED))
    assert found[:4] != found[4:8]


def test_any_step_is_reached_without_the_steps_before_it(dataset: Path) -> None:
    whole = [rows_beside(paired(dataset).steps(epoch)) for epoch in range(3)]
    for epoch, first in ((0, 2), (1, 0), (1, 3), (2, 4)):
        assert rows_beside(paired(dataset).steps(epoch, first)) == whole[epoch][first:]
    assert rows_beside(paired(dataset).steps(2, 1, 3)) == whole[2][1:3]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_labelled_rows_are_what_they_are_alone(dataset: Path, layout: Layout) -> None:
    both = list(map(content, paired(dataset, layout, micro_batch=7).steps(1)))
    assert both == list(map(content, labelled(dataset, layout=layout, micro_batch=7).steps(1)))
    assert len(both) == 5


def content(step: StepBatch) -> list[Any]:
    parts = [[batch.ids.tolist(), batch.labels.tolist(), batch.rows.tolist()] for batch in step.micro_batches]
    return [step.epoch, step.step, step.global_rows, parts]


@pytest.mark.parametrize("shape", [(UNLABELLED,), (UNLABELLED, 3)])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_soft_labels_come_with_their_rows(dataset: Path, layout: Layout, shape: tuple[int, ...]) -> None:
    numbers = np.concatenate([block.row for block in split_of(dataset, "unlabelled").blocks])
    targets = np.random.default_rng(0).random(shape, np.float32)
    of_row = {int(number): targets[place].tolist() for place, number in enumerate(numbers)}
    for step in paired(dataset, layout, targets, micro_batch=5, rank=1, world_size=2).steps(0):
        assert step.global_unlabelled_rows in (15, 16)
        assert all(batch.labelled and batch.targets is None for batch in step.micro_batches)
        for batch in step.unlabelled:
            assert not batch.labelled
            assert batch.labels.tolist() == [NO_LABEL] * batch.num_rows
            assert batch.targets is not None
            assert batch.targets.tolist() == [of_row[int(row)] for row in batch.rows]


def test_both_threads_end_with_whoever_leaves_early(dataset: Path) -> None:
    before = threading.active_count()
    steps = paired(dataset).steps(0)
    assert next(steps).global_unlabelled_rows == 15
    assert threading.active_count() <= before + 2
    steps.close()
    assert threading.active_count() == before


def test_the_order_of_unlabelled_rows_does_not_follow_that_of_the_others(dataset: Path) -> None:
    split = split_of(dataset, "unlabelled")
    same = order_over(split, OrderSpec(seed=SEED, global_batch=UNLABELLED_BATCH))
    ours = unlabelled_order(split)
    assert [ours.batch_rows(0, step).tolist() for step in range(4)] != [
        same.batch_rows(0, step).tolist() for step in range(4)
    ]
    assert len({stream_seed(seed) for seed in range(100)}) == 100


def test_the_hash_of_rows_tells_the_two_streams_apart() -> None:
    rows = np.arange(5)
    assert row_hash(rows, 7) != row_hash(rows, 7, unlabelled=True)
    parts = [row_hash(part, 7, unlabelled=True) for part in (rows[:2], rows[2:])]
    assert sum(parts) % (1 << 64) == row_hash(rows, 7, unlabelled=True)


def test_the_longest_batch_is_the_longest_of_both(dataset: Path) -> None:
    loader = paired(dataset)
    steps = list(loader.steps(0))
    beside = [sum(batch.num_padded_tokens for batch in step.unlabelled) for step in loader_steps(loader)]
    assert len(steps) == 5
    found = heaviest_batch(loader)
    assert sum(batch.num_padded_tokens for batch in found.unlabelled) == max(beside)
    assert found.global_unlabelled_rows in (15, 16)
    assert found.longest == max(int(batch.lengths[0]) for batch in [*found.micro_batches, *found.unlabelled])


def loader_steps(loader: Loader) -> list[StepBatch]:
    """The steps of the unlabelled rows' first pass, as if they were those of both."""
    result = []
    for step in loader.unlabelled.steps(0):
        copies = [Batch(batch.ids.clone(), batch.lengths, batch.labels, batch.rows) for batch in step.micro_batches]
        result.append(StepBatch(0, step.step, [], 0, unlabelled=copies))
    return result


def test_the_meter_counts_both_and_goes_on_after_a_restart(dataset: Path) -> None:
    world, meter = World(), Meter()
    tokens = 0
    for number, step in enumerate(paired(dataset).steps(0)):
        tokens += sum(batch.num_tokens for batch in [*step.micro_batches, *step.unlabelled])
        meter.add(step, number, torch.tensor(10.0), torch.tensor(2.5))
    state = meter.state(world)
    again = Meter()
    again.load(state, 0, 1)
    assert again.state(world) == state
    figures = again.read(world)
    assert (figures["rows"], figures["loss"]) == (LABELLED, 50 / LABELLED)
    unlabelled = sum(len(rows) for rows in rows_beside(paired(dataset).steps(0)))
    assert (figures["unlabelled_rows"], figures["unlabelled_loss"]) == (unlabelled, 12.5 / unlabelled)
    assert state[0]["tokens"] == tokens
    assert again.state(world)[0]["unlabelled_rows"] == 0


def test_a_log_line_without_unlabelled_rows_does_not_speak_of_them(dataset: Path) -> None:
    meter = Meter()
    for number, step in enumerate(labelled(dataset).steps(0)):
        meter.add(step, number, torch.tensor(1.0))
    assert not [name for name in meter.read(World()) if "unlabelled" in name]


def test_unlabelled_rows_of_a_skipped_step_are_written_down(dataset: Path, tmp_path: Path) -> None:
    (step,) = paired(dataset).steps(0, 0, 1)
    guard = NonFiniteGuard(
        3, World(), tmp_path, split_of(dataset, "train"), dataset, 2, split_of(dataset, "unlabelled")
    )
    losses = [torch.ones(batch.num_rows) for batch in [*step.micro_batches, *step.unlabelled]]
    losses[-1][4] = torch.nan
    assert guard.record(0, step, losses, torch.ones(()), 0.1) == 1
    (path,) = (tmp_path / "bad_batches").iterdir()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["row"], line["label"], line["loss"]) == (int(step.unlabelled[-1].rows[4]), None, "nan")
    assert line["shard"].startswith("unlabelled/")


def test_a_run_says_how_often_it_sees_the_unlabelled_rows(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    config = RunConfig(data=str(dataset), order=OrderConfig(unlabelled_batch=UNLABELLED_BATCH))
    found, _ = facts(config, manifest, 10)
    assert found["unlabelled"] == "17 more rows in every step, 2.5 passes in all"
    assert "unlabelled" not in facts(RunConfig(data=str(dataset)), manifest, 10)[0]
