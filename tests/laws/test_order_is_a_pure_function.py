# SPDX-License-Identifier: Apache-2.0
"""Law 3: order is a pure function of (dataset, seed, epoch, global batch); ranks and restarts only slice it. Which rows
a run has, where it holds out a fold: ``test_every_row_counts_once.py``.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.order import Order, OrderSpec
from tests.helpers.batches import rows_of_step


def make_order(rows_per_block: list[int], spec: OrderSpec) -> Order:
    """Of blocks with so many rows, of 1 to 399 tokens."""
    starts = np.cumsum([0, *rows_per_block])
    lengths = np.random.default_rng(7).integers(1, 400, starts[-1])
    return Order(starts, lambda block: lengths[starts[block] : starts[block + 1]], spec, np.ones(len(rows_per_block)))


def epoch_batches(order: Order, epoch: int) -> list[list[int]]:
    return [rows_of_step(order, epoch, step).tolist() for step in range(order.steps_per_epoch)]


BLOCKS = st.lists(st.integers(1, 50), min_size=1, max_size=12)
SPECS = st.builds(
    OrderSpec,
    seed=st.integers(0, 2**31),
    global_batch=st.integers(1, 64),
    window_rows=st.integers(1, 300),
    length_noise=st.floats(0, 1),
    shuffle=st.booleans(),
)


@given(BLOCKS, SPECS, st.integers(0, 5))
def test_every_row_comes_once_in_batches_of_near_equal_size(blocks: list[int], spec: OrderSpec, epoch: int) -> None:
    order = make_order(blocks, spec)
    batches = epoch_batches(order, epoch)
    sizes = [len(batch) for batch in batches]
    assert sorted(row for batch in batches for row in batch) == list(range(sum(blocks)))
    assert max(sizes) <= spec.global_batch
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-sum(blocks) // spec.global_batch)


def test_seed_epoch_and_global_batch_change_the_order() -> None:
    orders = [(seed, size, epoch) for seed in (0, 1) for size in (16, 17) for epoch in (0, 1)]
    batches = [
        epoch_batches(make_order([40] * 10, OrderSpec(seed=seed, global_batch=size)), epoch)
        for seed, size, epoch in orders
    ]
    assert all(batches.count(epoch_of_order) == 1 for epoch_of_order in batches)


def test_the_order_never_changes_between_versions() -> None:
    order = make_order([5, 3, 4], OrderSpec(seed=11, global_batch=5, window_rows=10, length_noise=0.1))
    assert epoch_batches(order, 2) == GOLDEN


GOLDEN = [[0, 3, 2, 1], [11, 6, 5, 4], [9, 10, 7, 8]]


def test_an_epoch_cut_anywhere_goes_on_as_if_nothing_happened() -> None:
    """1,000 rows, every cut point, in a process that is new."""
    blocks, spec = [100] * 10, OrderSpec(seed=4, global_batch=70, window_rows=300)
    batches = epoch_batches(make_order(blocks, spec), 1)
    for cut_at in range(len(batches)):
        order = make_order(blocks, spec)
        assert [rows_of_step(order, 1, step).tolist() for step in range(cut_at, len(batches))] == batches[cut_at:]


def test_a_billion_rows_open_at_once_and_any_step_is_near() -> None:
    num_rows = 10**9
    starts = np.append(np.arange(0, num_rows, 8192), num_rows)
    widths = np.where(np.arange(len(starts) - 1) % 3, 256, 512)
    read = []

    def lengths(block: int) -> np.ndarray:
        read.append(block)
        return np.arange(starts[block], starts[block + 1]) * 7919 % 255 + 1

    spec = OrderSpec(seed=3, global_batch=512)
    order = Order(starts, lengths, spec, widths)
    assert read == [], "opening reads no row"
    for step in np.random.default_rng(0).integers(0, order.steps_per_epoch, 9).tolist():
        rows_of_step(order, 0, step)
        assert 0 < len(read) <= spec.window_rows // 8192 + 4, "a step reads the blocks of its own window only"
        read.clear()
    tracemalloc.start()
    rows_of_step(Order(starts, lengths, spec, widths), 1, order.steps_per_epoch - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6


def corpus_order(spec: OrderSpec) -> tuple[Order, np.ndarray, np.ndarray]:
    """Like IMDB: labels one after the other in the source, lengths about 250 tokens, and shards by width; the order,
    the source row and the length of each row.
    """
    rows, widths = 25_000, np.array([64, 128, 256, 512])
    lengths = np.clip(np.random.default_rng(5).lognormal(5.3, 0.6, rows), 10, 512).astype(np.int32)
    width_numbers = np.searchsorted(widths, lengths)
    source = np.argsort(width_numbers, kind="stable")
    lengths, edges = lengths[source], np.searchsorted(np.sort(width_numbers), range(5))
    starts = np.unique([*edges, *range(0, rows, 8192)])
    block_widths = widths[np.searchsorted(edges, starts[:-1], side="right") - 1]
    return Order(starts, lambda block: lengths[starts[block] : starts[block + 1]], spec, block_widths), source, lengths


def test_an_epoch_is_shuffled_like_a_permutation() -> None:
    """Independent: position and source of a row, successive labels, lengths of successive batches."""
    order, source, lengths = corpus_order(OrderSpec(seed=0, global_batch=64))
    labels = source >= len(source) // 2
    places, alike = [], []
    for epoch in range(12):
        batches = [rows_of_step(order, epoch, step) for step in range(order.steps_per_epoch)]
        means = np.array([lengths[batch].mean() for batch in batches])
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.06, epoch
        rows = np.concatenate([np.random.default_rng(epoch).permutation(batch) for batch in batches])
        places.append(np.corrcoef(np.arange(len(rows)), source[rows])[0, 1])
        alike.append((labels[rows[1:]] == labels[rows[:-1]]).mean())
    assert abs(np.mean(places)) < 0.02
    assert np.mean(alike) == pytest.approx(0.5, abs=0.015)
