# SPDX-License-Identifier: Apache-2.0
"""What a run will do, computed from its configuration and the dataset's manifest alone.

The manifest says how many rows of which length every shard holds, though not which row has which. The real order runs
over such rows dealt at random within each shard, for at most ``SAMPLED_ROWS`` rows: steps and rows are exact, tokens
and padding are those of a typical epoch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import RunConfig
from harness.data.checks import TRAIN, check_fit, class_rows, few_steps, imbalance, order_spec, unlabelled_spec
from harness.data.order import WINDOW_BYTES_PER_ROW, WINDOW_ROWS, Order, OrderSpec, step_rows, width_groups
from harness.model.registry import CELLS, check_model, parameters_of
from harness.settings.task import LANGUAGE_MODEL
from harness.tracking.trackers import check_names
from preprocessing.base.randomness import permutation
from preprocessing.base.split_names import TEST, UNLABELLED, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, ShardInfo
from preprocessing.text.spec import TextPipeline

SAMPLED_ROWS = 1_000_000
BATCHES = (32, 64, 128, 256, 512, 1024)
NOISES = (0.0, 0.01, 0.05)
ROWS_FOR_A_GPU = 64
"""A GPU computes a step of fewer rows in about the time that it takes to start the step's kernels."""
WORLD_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class Typical:
    """A split as its manifest describes it: real blocks, and lengths dealt at random among the rows of each shard."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        """Reads nothing but the manifest."""
        blocks = [
            (place, start, min(manifest.block_rows, info.rows - start))
            for place, info in enumerate(manifest.splits[split])
            for start in range(0, info.rows, manifest.block_rows)
        ]
        infos = manifest.splits[split]
        self.starts = np.cumsum([0, *(rows for _, _, rows in blocks)], dtype=np.int64)
        self.widths = np.array([infos[place].width for place, _, _ in blocks])
        shard_lengths = lru_cache(maxsize=32)(lambda place: dealt(infos[place], place))

        def lengths(block: int) -> np.ndarray:
            place, start, rows = blocks[block]
            return shard_lengths(place)[start : start + rows]

        self.lengths = lengths

    def order(self, spec: OrderSpec) -> Order:
        """The real order over these rows."""
        return Order(self.starts, self.lengths, spec, self.widths)


def dealt(info: ShardInfo, seed: int) -> np.ndarray:
    """int32 ``[rows]``: the shard's lengths, in random order."""
    lengths = np.repeat(np.array(list(info.lengths), np.int32), list(info.lengths.values()))
    return lengths[permutation(len(lengths), seed)]


@dataclass(frozen=True)
class Shares:
    """One epoch as the ranks see it; sums over the steps that were run."""

    steps: int
    """Steps that were run: all of an epoch, or its first windows in a large split."""
    padding: float
    """Share of the computed positions that hold no token, where each rank pads to its longest row."""
    tokens_per_rank: tuple[int, int]
    """Tokens per epoch of the rank with the fewest and of the one with the most."""
    worst_step: float
    """Largest difference in tokens between two ranks of one step, over the mean of that step."""
    mean_step: float
    """The same difference over all steps: their sum over the sum of means."""
    largest_padded_tokens: int
    """Most padded positions that one rank computes in one step."""
    each_row_once: bool
    """Every row of the steps that were run came once; of all rows, where the whole epoch was run."""


def shares(typical: Typical, order: Order, world_size: int) -> Shares:
    """Run the order's first epoch, or as many windows of it as hold ``SAMPLED_ROWS`` rows."""
    seen = np.zeros(order.num_rows, np.uint8)
    totals = np.zeros(world_size, np.int64)
    padded_tokens, largest, step = 0, 0, 0
    spread_sum, mean_sum, worst = 0.0, 0.0, 0.0
    while step < order.steps_per_epoch and (step == 0 or int(totals.sum()) == 0 or seen_rows(order, step)):
        window = order.window(0, step)
        lengths = np.concatenate([typical.lengths(int(block)) for block in window.blocks])
        for number in range(len(window.cuts) - 1):
            places = window.batch(step + number)
            np.add.at(seen, window.rows(places), 1)
            of_rank = [lengths[places[rank::world_size]] for rank in range(world_size)]
            tokens = np.array([part.sum() for part in of_rank], np.int64)
            padded = [len(part) * int(part.max(initial=0)) for part in of_rank]
            totals += tokens
            padded_tokens, largest = padded_tokens + sum(padded), max(largest, *padded)
            difference, mean = int(tokens.max() - tokens.min()), float(tokens.mean())
            worst, spread_sum, mean_sum = max(worst, difference / mean), spread_sum + difference, mean_sum + mean
        step += len(window.cuts) - 1
    complete = step == order.steps_per_epoch
    once = bool((seen == 1).all()) if complete else int(seen.max()) == 1
    scale = order.steps_per_epoch / step
    fewest, most = int(totals.min() * scale), int(totals.max() * scale)
    padding = 1 - int(totals.sum()) / padded_tokens
    return Shares(step, padding, (fewest, most), worst, spread_sum / mean_sum, largest, once)


def seen_rows(order: Order, steps: int) -> bool:
    """Whether the steps run so far hold fewer rows than are to be sampled."""
    return steps * order.num_rows // order.steps_per_epoch < SAMPLED_ROWS


def forecast(config: RunConfig, manifest: Manifest, world_size: int) -> dict[str, Any]:
    """All figures. Raises ``UserError`` if the configuration does not fit the dataset or the processes."""
    check_model(config.model)
    check_names(config.tracking)
    TextPipeline.from_json(
        manifest.text, Path(config.data, MANIFEST)
    )  # raises for a tokenizer that this padless does not have
    check_fit(config, manifest, world_size)
    spec, typical = order_spec(config), Typical(manifest, TRAIN)
    order = typical.order(spec)
    ours = shares(typical, order, world_size)
    beside = stream(config, manifest, world_size, order.steps_per_epoch * config.epochs)
    classes = class_rows(manifest, TRAIN)
    return {
        "task": config.task,
        "rows": order.num_rows,
        "steps_per_epoch": order.steps_per_epoch,
        "steps": order.steps_per_epoch * config.epochs,
        "rows_per_step": [order.smallest_step, order.largest_step],
        "rows_per_process": rows_per_process(order, world_size),
        "classes": classes,
        "imbalance": imbalance(classes, config.optim.class_weights, config.evaluation.threshold),
        "few_steps": few_steps(order.steps_per_epoch, config.epochs),
        "too_few_for_a_gpu": too_few_for_a_gpu(config, order, world_size),
        "windows": order.num_windows,
        "tokens": sum(info.tokens for info in manifest.splits[TRAIN]),
        "unlabelled": {
            "rows": sum(info.rows for info in manifest.splits.get(UNLABELLED, ())),
            "tokens": sum(info.tokens for info in manifest.splits.get(UNLABELLED, ())),
        },
        "world_size": world_size,
        "ranks": asdict(ours),
        "batches": batch_table(config, typical, world_size),
        "ladders": ladder_table(manifest),
        "world_sizes": world_table(manifest, spec),
        "memory": memory(config, manifest, order, ours, world_size, beside),
        "proof": proof(order, ours),
        "unlabelled_stream": beside,
    }


def stream(config: RunConfig, manifest: Manifest, world_size: int, steps: int) -> dict[str, Any] | None:
    """The unlabelled rows beside the labelled ones of a run of so many steps; None where there are none."""
    if not config.order.unlabelled_batch:
        return None
    typical = Typical(manifest, UNLABELLED)
    order = typical.order(unlabelled_spec(config))
    ours = shares(typical, order, world_size)
    return {
        "rows": order.num_rows,
        "tokens": sum(info.tokens for info in manifest.splits[UNLABELLED]),
        "steps_per_pass": order.steps_per_epoch,
        "rows_per_step": [order.smallest_step, order.largest_step],
        "passes": steps / order.steps_per_epoch,
        "ranks": asdict(ours),
        "proof": proof(order, ours),
    }


def rows_per_process(order: Order, world_size: int) -> list[int]:
    """Fewest and most rows that one process gets in a step."""
    return [order.smallest_step // world_size, -(-order.largest_step // world_size)]


def too_few_for_a_gpu(config: RunConfig, order: Order, world_size: int) -> str | None:
    """A sentence if a process gets so few rows a step, or holds so few at once, that a GPU would be mostly idle."""
    most, batch = rows_per_process(order, world_size)[1], config.global_batch
    asked = most if config.global_batch_tokens is not None else -(-batch // world_size)  # steps of near-equal size
    if asked < ROWS_FOR_A_GPU:
        wanted, start_fewer = ROWS_FOR_A_GPU * world_size, " or start fewer processes" if world_size > 1 else ""
        if config.global_batch_tokens is None:
            change = f"raise global_batch from {batch} to {wanted}{start_fewer}"
        else:
            change = f"raise global_batch_tokens from {config.global_batch_tokens}{start_fewer}"
        return f"{most} rows a process and step keep no GPU busy, {ROWS_FOR_A_GPU} are the least; {change}"
    held = config.micro_batch
    if isinstance(held, int) and held < ROWS_FOR_A_GPU:
        return (
            f"micro_batch: {held} rows at once keep no GPU busy, {ROWS_FOR_A_GPU} are the least; "
            "raise micro_batch or set it to auto"
        )
    return None


def proof(order: Order, ours: Shares) -> dict[str, Any]:
    """That every row comes exactly once: by construction for any split, by counting where the epoch was run."""
    parts: list[dict[str, Any]] = []
    for part in order.width_groups:
        rows = sum(part.start(step + 1) - part.start(step) for step in range(part.steps))
        parts.append({"widths": list(part.widths), "rows": part.rows, "steps": part.steps, "sum_of_steps": rows})
    windows = sum(order.first_step(number + 1) - order.first_step(number) for number in range(order.num_windows))
    tiled = windows == order.steps_per_epoch and all(part["rows"] == part["sum_of_steps"] for part in parts)
    complete = sum(part["rows"] for part in parts) == order.num_rows
    return {
        "width_groups": parts,
        "steps_tile_the_rows": tiled and complete,
        "steps_counted": ours.steps,
        "each_row_once": ours.each_row_once and tiled and complete,
    }


def batch_table(config: RunConfig, typical: Typical, world_size: int) -> list[dict[str, Any]]:
    """Padding of an epoch for several batch sizes and amounts of noise, on the planned number of processes."""
    spec, table = order_spec(config), []
    for rows in BATCHES:
        if rows >= world_size and rows <= int(typical.starts[-1]):
            noises = sorted({*NOISES, spec.length_noise})
            variants = [replace(spec, global_batch=rows, batch_tokens=None, length_noise=noise) for noise in noises]
            orders = [typical.order(variant) for variant in variants]
            fits = all(order.smallest_step >= world_size for order in orders)
            found = [shares(typical, order, world_size).padding for order in orders] if fits else []
            if found:
                padding = {str(noise): value for noise, value in zip(noises, found, strict=True)}
                table.append({"global_batch": rows, "steps_per_epoch": orders[0].steps_per_epoch, "padding": padding})
    return table


def ladder_table(manifest: Manifest) -> list[dict[str, Any]]:
    """Padding on disk, and the size of the ids, for several ladders of shard widths."""
    counts: dict[int, int] = {}
    for info in manifest.splits[TRAIN]:
        for length, count in info.lengths.items():
            counts[int(length)] = counts.get(int(length), 0) + count
    lengths, rows = np.array(sorted(counts)), np.array([counts[length] for length in sorted(counts)])
    longest = max(info.width for info in manifest.splits[TRAIN])
    halved = [longest >> shift for shift in range(8) if longest >> shift >= min(64, longest)][::-1]
    between = sorted({*halved, *(width * 3 // 4 for width in halved[1:])})
    ladders = {
        "this dataset": sorted({info.width for info in manifest.splits[TRAIN]}),
        "one width": [longest],
        "halved": halved,
        "halved, and between": between,
        "steps of 32": [*range(32, longest, 32), longest],
    }
    itemsize = 2 if manifest.id_dtype == "uint16" else 4
    table = []
    for name, widths in ladders.items():
        padded_tokens = int((np.array(widths)[np.searchsorted(widths, lengths)] * rows).sum())
        padding = 1 - int((lengths * rows).sum()) / padded_tokens
        table.append({"name": name, "widths": widths, "padding_on_disk": padding, "id_bytes": padded_tokens * itemsize})
    return table


def world_table(manifest: Manifest, spec: OrderSpec) -> list[dict[str, Any]]:
    """For several world sizes, the share of time that ranks with one row less wait for the others; 0 divides evenly."""
    cut = width_groups(manifest.rows_by_width(TRAIN), spec)
    smallest, _ = step_rows(cut)
    table = []
    for world in WORLD_SIZES:
        if world > smallest:
            break
        slots = 0
        for part in cut:
            low, extra = divmod(part.rows, part.steps)
            slots += world * (-(-low // world) * (part.steps - extra) + -(-(low + 1) // world) * extra)
        table.append({"world_size": world, "idle": 1 - sum(part.rows for part in cut) / slots})
    return table


def memory(
    config: RunConfig,
    manifest: Manifest,
    order: Order,
    ours: Shares,
    world_size: int,
    beside: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Bytes per process; activations are an estimate: what backward keeps of each padded position, in fp32."""
    shape = config.model
    parameters = parameters_of(config, manifest)
    rows = -(-order.largest_step // world_size)

    def at_once(positions: int, rows: int) -> float:
        return positions * min(1.0, config.micro_batch / rows) if isinstance(config.micro_batch, int) else positions

    most = at_once(ours.largest_padded_tokens, rows)
    if beside is not None:
        most = max(
            most, at_once(beside["ranks"]["largest_padded_tokens"], -(-beside["rows_per_step"][1] // world_size))
        )
    directions = 2 if shape.bidirectional else 1
    per_layer = directions * shape.hidden_size * (CELLS[shape.cell].gates + 1 + 1 + 1)
    per_token = 4 * (2 * shape.embedding_dim + shape.num_layers * per_layer)
    if config.task == LANGUAGE_MODEL:  # states, projections, targets' vectors and gradients; logits are as good as none
        per_token += 4 * directions * (shape.hidden_size + 3 * shape.embedding_dim)
    itemsize = 2 if manifest.id_dtype == "uint16" else 4
    read = [TRAIN, *([UNLABELLED] if config.order.unlabelled_batch else [])]
    mapped = [*read, VALIDATION, TEST]
    width = max(info.width for info in manifest.splits[TRAIN])
    buffers = min(32, 4 * max(1, (1 << 20) // max(1, rows * width * itemsize))) * rows * width * itemsize
    window_rows = min(order.num_rows, WINDOW_ROWS)
    return {
        "parameters": parameters,
        "weights_gradients_optimizer": 16 * parameters,
        "activations_estimate": int(most * per_token),
        "host_buffers": buffers,
        "host_window": WINDOW_BYTES_PER_ROW * window_rows,
        "dataset_mapped": sum(info.bytes for name in mapped for info in manifest.splits.get(name, ())),
        "tokens_on_device": itemsize * sum(info.tokens for name in read for info in manifest.splits[name]),
    }
