# SPDX-License-Identifier: Apache-2.0
"""Law 3: order is a pure function of (dataset, seed, epoch, global batch). Ranks, restarts only slice it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.order import Order, OrderSpec, micro_batches


def make_order(rows_per_block: list[int], spec: OrderSpec) -> Order:
    starts = np.cumsum([0, *rows_per_block])
    lengths = np.random.default_rng(7).integers(1, 400, starts[-1])
    return Order(starts, lambda block: lengths[starts[block] : starts[block + 1]], spec)


def epoch_batches(order: Order, epoch: int) -> list[list[int]]:
    return [order.batch_rows(epoch, step).tolist() for step in range(order.steps_per_epoch)]


BLOCKS = st.lists(st.integers(1, 50), min_size=1, max_size=12)
SPECS = st.builds(
    OrderSpec,
    seed=st.integers(0, 2**31),
    global_batch=st.integers(1, 64),
    window_rows=st.integers(1, 300),
    length_noise=st.floats(0, 1),
    shuffle=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, SPECS, st.integers(0, 5))
def test_every_row_comes_once_in_batches_of_near_equal_size(blocks: list[int], spec: OrderSpec, epoch: int) -> None:
    order = make_order(blocks, spec)
    batches = epoch_batches(order, epoch)
    sizes = [len(batch) for batch in batches]
    assert sorted(row for batch in batches for row in batch) == list(range(sum(blocks)))
    assert max(sizes) <= spec.global_batch
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-sum(blocks) // spec.global_batch)


@settings(max_examples=60, deadline=None)
@given(BLOCKS, SPECS, st.data())
def test_any_step_is_reached_without_the_steps_before_it(
    blocks: list[int], spec: OrderSpec, data: st.DataObject
) -> None:
    whole = epoch_batches(make_order(blocks, spec), 3)
    fresh = make_order(blocks, spec)
    steps = data.draw(st.permutations(range(len(whole))))
    assert [fresh.batch_rows(3, step).tolist() for step in steps] == [whole[step] for step in steps]


@settings(max_examples=60, deadline=None)
@given(BLOCKS, SPECS, st.sampled_from([1, 2, 3, 4, 8, 64]))
def test_ranks_only_slice_the_global_batch(blocks: list[int], spec: OrderSpec, world_size: int) -> None:
    order = make_order(blocks, spec)
    for step in range(order.steps_per_epoch):
        slices = [order.rank_rows(0, step, rank, world_size).tolist() for rank in range(world_size)]
        assert sorted(row for piece in slices for row in piece) == sorted(order.batch_rows(0, step).tolist())
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


@pytest.mark.parametrize("changed", [{"seed": 1}, {"global_batch": 17}])
def test_seed_epoch_and_global_batch_change_the_order(changed: dict[str, int]) -> None:
    blocks = [40] * 10
    base = {"seed": 0, "global_batch": 16}
    first = epoch_batches(make_order(blocks, OrderSpec(**base)), 0)
    assert epoch_batches(make_order(blocks, OrderSpec(**{**base, **changed})), 0) != first
    assert epoch_batches(make_order(blocks, OrderSpec(**base)), 1) != first
    assert epoch_batches(make_order(blocks, OrderSpec(**base)), 0) == first


def test_the_order_never_changes_between_versions() -> None:
    order = make_order([5, 3, 4], OrderSpec(seed=11, global_batch=5, window_rows=10, length_noise=0.1))
    assert epoch_batches(order, 2) == GOLDEN


GOLDEN = [[0, 3, 2, 1], [11, 6, 5, 4], [9, 10, 7, 8]]


def test_rows_of_a_batch_have_similar_lengths() -> None:
    starts = np.arange(0, 10_001, 500)
    lengths = np.random.default_rng(0).integers(1, 400, 10_000)
    spec = OrderSpec(seed=0, global_batch=100, length_noise=0.05)
    order = Order(starts, lambda block: lengths[starts[block] : starts[block + 1]], spec)
    cells = sum(100 * lengths[order.batch_rows(0, step)].max() for step in range(100))
    assert 1 - lengths.sum() / cells < 0.08
    shuffled = np.random.default_rng(1).permutation(lengths).reshape(100, 100)
    assert 1 - lengths.sum() / (100 * shuffled.max(axis=1).sum()) > 0.4


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.one_of(st.none(), st.integers(1, 50)))
def test_no_rank_gets_an_empty_micro_batch(rows: int, world_size: int, micro_batch: int | None) -> None:
    if rows < world_size:
        return
    count = micro_batches(rows, world_size, micro_batch)
    for rank in range(world_size):
        sizes = [len(piece) for piece in np.array_split(np.arange(rows)[rank::world_size], count)]
        assert min(sizes) >= 1
        assert micro_batch is None or max(sizes) <= max(micro_batch, 2)
