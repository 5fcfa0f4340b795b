# SPDX-License-Identifier: Apache-2.0
"""``python -m harness plan``: what a run will do, computed from its configuration and the dataset's manifest alone.

The manifest says how many rows of which length every shard holds, though not which row has which. The real order runs
over such rows dealt at random within each shard, for at most ``SAMPLED_ROWS`` rows: steps and rows are exact, tokens
and padding are those of a typical epoch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from harness.config import LANGUAGE_MODEL, RunConfig
from harness.data.checks import (
    TRAIN,
    check_fit,
    class_rows,
    few_steps,
    imbalance,
    in_words,
    order_spec,
    unlabelled_spec,
)
from harness.data.order import WINDOW_BYTES_PER_ROW, WINDOW_ROWS, Order, OrderSpec
from harness.data.views import rows_of_task
from harness.launch import many
from harness.launch.asked import LaunchRecipe
from harness.model.registry import CELLS, check_model, parameters_of
from harness.ranks import devices
from harness.tracking.trackers import check_names
from harness.training.rules import resolve
from preprocessing.base.errors import UserError
from preprocessing.base.randomness import permutation
from preprocessing.base.split_names import TEST, UNLABELLED, VALIDATION
from preprocessing.base.terminal import TIE, Screen, counted, size
from preprocessing.dataset.shards import MANIFEST, Manifest, read_manifest
from preprocessing.dataset.verification import check_files
from preprocessing.text.spec import TextPipeline

SAMPLED_ROWS = 1_000_000
ROWS_FOR_A_GPU = 64
"""A GPU computes a step of fewer rows in about the time that it takes to start the step's kernels."""
WARNINGS = {"imbalance": "imbalance", "few_steps": "few steps", "too_few_for_a_gpu": "on a GPU"}
"""What may go wrong, by its key: how its line begins."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(LaunchRecipe):
    """What a run will do, before it does it; it takes every key that launch takes."""

    world_size: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    """Processes that will train."""
    json: bool = False
    """Print JSON."""


def main(config: PlanConfig) -> None:
    """Print the plan, of many trainings that of the first.

    Raises ``UserError`` if the order is not what it promises, which only a bug can bring about.
    """
    training, runs = many.first(config)
    resolved = resolve(training)
    manifest = read_manifest(training.data)
    check_files(training.data, manifest)  # nothing is planned for rows that no file holds
    manifest = rows_of_task(training.task, manifest, training.data, training.fold)
    values = forecast(resolved.config, manifest, config.world_size)
    if runs:
        values["runs"] = [str(one.path) for one in runs]
    values["folds"] = fold_rows(manifest)
    values["decided"] = {name: {"value": value, "reason": why} for name, (value, why) in resolved.reasons.items()}
    count, reason = devices.choose_threads(training.threads, config.world_size)
    values["threads"] = {"value": count, "reason": reason}
    if config.json:
        print(json.dumps(values, indent=2))
    else:
        show(values)
    orders = [values, *([values["unlabelled_stream"]] if values["unlabelled_stream"] else [])]
    if not all(one["ranks"]["each_row_once"] for one in orders):
        raise UserError(f"{training.data}: the order does not hold what it promises; report this plan as a bug")


def sampled(manifest: Manifest, split: str, spec: OrderSpec, world_size: int) -> tuple[Order, Shares]:
    """The order of a split, over its real blocks and lengths dealt at random within each shard, and its shares."""
    infos = manifest.splits[split]
    blocks = [
        (place, start, min(manifest.block_rows, info.rows - start))
        for place, info in enumerate(infos)
        for start in range(0, info.rows, manifest.block_rows)
    ]

    @lru_cache(maxsize=32)
    def dealt(place: int) -> np.ndarray:
        lengths = np.repeat(np.array(list(infos[place].lengths), np.int32), list(infos[place].lengths.values()))
        return lengths[permutation(len(lengths), place)]

    def lengths(block: int) -> np.ndarray:
        place, start, rows = blocks[block]
        return dealt(place)[start : start + rows]

    starts = np.cumsum([0, *(rows for _, _, rows in blocks)], dtype=np.int64)
    order = Order(starts, lengths, spec, np.array([infos[place].width for place, _, _ in blocks]))
    return order, shares(order, lengths, world_size)


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


def shares(order: Order, lengths_of: Callable[[int], np.ndarray], world_size: int) -> Shares:
    """Run the order's first epoch, or as many windows of it as hold ``SAMPLED_ROWS`` rows."""
    seen = np.zeros(order.num_rows, np.uint8)
    totals = np.zeros(world_size, np.int64)
    padded_tokens, largest, step = 0, 0, 0
    spread_sum, mean_sum, worst = 0.0, 0.0, 0.0
    while step < order.steps_per_epoch and (
        int(totals.sum()) == 0 or step * order.num_rows // order.steps_per_epoch < SAMPLED_ROWS
    ):
        window = order.window(0, step)
        lengths = np.concatenate([lengths_of(int(block)) for block in window.blocks])
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


def forecast(config: RunConfig, manifest: Manifest, world_size: int) -> dict[str, Any]:
    """All figures. Raises ``UserError`` if the configuration does not fit the dataset or the processes."""
    check_model(config.model)
    check_names(config.tracking)
    TextPipeline.from_json(manifest.text, Path(config.data, MANIFEST))  # raises for a tokenizer that is not here
    check_fit(config, manifest, world_size)
    order, ours = sampled(manifest, TRAIN, order_spec(config), world_size)
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
        "tokens": tokens_of(manifest, TRAIN),
        "unlabelled": {
            "rows": manifest.rows(UNLABELLED) if UNLABELLED in manifest.splits else 0,
            "tokens": tokens_of(manifest, UNLABELLED),
        },
        "world_size": world_size,
        "ranks": asdict(ours),
        "memory": memory(config, manifest, order, ours, world_size, beside),
        "unlabelled_stream": beside,
    }


def stream(config: RunConfig, manifest: Manifest, world_size: int, steps: int) -> dict[str, Any] | None:
    """The unlabelled rows beside the labelled ones of a run of so many steps; None where there are none."""
    if not config.order.unlabelled_batch:
        return None
    order, ours = sampled(manifest, UNLABELLED, unlabelled_spec(config), world_size)
    return {
        "rows": order.num_rows,
        "tokens": tokens_of(manifest, UNLABELLED),
        "steps_per_pass": order.steps_per_epoch,
        "rows_per_step": [order.smallest_step, order.largest_step],
        "passes": steps / order.steps_per_epoch,
        "ranks": asdict(ours),
    }


def tokens_of(manifest: Manifest, split: str) -> int:
    """Real tokens of a split; 0 where it is not there."""
    return sum(info.tokens for info in manifest.splits.get(split, ()))


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


def memory(
    config: RunConfig, manifest: Manifest, order: Order, ours: Shares, world_size: int, beside: dict[str, Any] | None
) -> dict[str, int]:
    """Bytes per process; activations are an estimate: what backward keeps of each padded position, in fp32."""
    shape = config.model
    parameters = parameters_of(config, manifest)
    rows = -(-order.largest_step // world_size)

    def at_once(positions: int, rows: int) -> float:
        return positions * min(1.0, config.micro_batch / rows) if isinstance(config.micro_batch, int) else positions

    most = at_once(ours.largest_padded_tokens, rows)
    if beside is not None:
        beside_rows = -(-beside["rows_per_step"][1] // world_size)
        most = max(most, at_once(beside["ranks"]["largest_padded_tokens"], beside_rows))
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
        "tokens_on_device": itemsize * sum(tokens_of(manifest, name) for name in read),
    }


def show(values: dict[str, Any]) -> None:
    """Print the plan for people."""
    screen = Screen()
    for name, text in in_lines(values).items():
        screen.fact(name, text)
    for name, title in WARNINGS.items():
        if values[name] is not None:
            screen.fact(title, values[name], "warn")


def fold_rows(manifest: Manifest) -> list[int]:
    """Rows of each fold of a dataset; empty where it has none."""
    rows = [0] * manifest.folds
    for info in (info for shards in manifest.splits.values() for info in shards):
        if info.fold is not None:
            rows[info.fold] += info.rows
    return rows


def in_lines(values: dict[str, Any]) -> dict[str, str]:
    """The figures of the plan in words, by name."""
    ranks: dict[str, Any] = values["ranks"]
    low, high = values["rows_per_step"]
    fewest, most = ranks["tokens_per_rank"]
    least, largest = values["rows_per_process"]
    memory, there = dict(values["memory"]), values["unlabelled"]
    share = f"each with {least} to {largest} rows a step, {fewest:,} to {most:,} tokens an epoch"
    proved = "each row exactly once" if ranks["each_row_once"] else "ROWS ARE MISSING OR REPEATED"
    runs, folds = values.get("runs", []), values["folds"]
    return {
        **({"runs": f"{len(runs)}, one after the other: {', '.join(runs)}; this is the first"} if runs else {}),
        **({"folds": f"{len(folds)} of {min(folds):,} to {max(folds):,} rows"} if folds else {}),
        "rows": f"{values['rows']:,} with {values['tokens']:,} tokens, in {counted(values['windows'], 'window')}",
        **({"unlabelled": in_a_line(there, values["unlabelled_stream"])} if there["rows"] else {}),
        **({"task": task(values)} if values["task"] == LANGUAGE_MODEL else {"classes": in_words(values["classes"])}),
        "steps": f"{values['steps_per_epoch']:,} an epoch, {values['steps']:,} in all, of {low} to {high} rows",
        **{name: f"{one['value']}: {one['reason']}" for name, one in values["decided"].items()},
        "ranks": f"{values['world_size']}, {share}",
        "threads": f"{values['threads']['value']} each on a CPU: {values['threads']['reason']}",
        "balance": f"ranks of a step differ by {ranks['mean_step']:.2%} in tokens, {ranks['worst_step']:.2%} at most",
        "padding": f"{ranks['padding']:.2%} of the computed positions (none where batches are packed)",
        "proof": f"{proved}; counted over {ranks['steps']:,} steps",
        "memory": "; ".join([f"{memory.pop('parameters'):,} parameters", *map(described, memory.items())]),
    }


def in_a_line(there: dict[str, int], stream: dict[str, Any] | None) -> str:
    """The unlabelled rows that a dataset has, and those that every step takes, if steps take any."""
    found = f"{there['rows']:,} rows with {there['tokens']:,} tokens"
    if stream is None:
        return found
    low, high = stream["rows_per_step"]
    once = "each row once a pass" if stream["ranks"]["each_row_once"] else "ROWS ARE MISSING OR REPEATED"
    passes = f"{stream['passes']:.2f} passes of {stream['steps_per_pass']:,} steps"
    return f"{found}, {low} to {high} of them in every step: {passes}, {once}"


def task(values: dict[str, Any]) -> str:
    """What a pretraining predicts in an epoch."""
    return f"language model; {values['tokens'] - values['rows']:,} tokens to predict an epoch, in each direction"


def described(entry: tuple[str, int]) -> str:
    """One kind of memory of a process."""
    key, size_in_bytes = entry
    return f"{key.replace('_', ' ')}{TIE}{size(size_in_bytes).replace(' ', TIE)}"
