# SPDX-License-Identifier: Apache-2.0
"""Unlabelled rows beside labelled ones: each once a pass, on any number of ranks, from any step on (law 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Layout
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over, stream_seed
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
