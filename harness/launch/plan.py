# SPDX-License-Identifier: Apache-2.0
"""``python -m harness plan``: what a run will do, computed from its configuration and its dataset.

Steps and rows are exact. Padding, balance and memory are those of the order's first windows, up to ``SAMPLED_ROWS``
rows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from harness.config import LANGUAGE_MODEL, LaunchRecipe, RunConfig
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
from harness.data.order import Order, OrderSpec, order_over
from harness.data.views import rows_of_task
from harness.launch import many
from harness.model.registry import CELLS, check_model, parameters_of
from harness.tracking.trackers import check_names
from harness.training.rules import resolve
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Screen, size
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest
from preprocessing.text.spec import TextPipeline

SAMPLED_ROWS = 300_000
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
    """Print the plan, of many trainings that of the first."""
    training, runs = many.first(config)
    resolved = resolve(training)
    manifest = rows_of_task(training.task, read_manifest(training.data), training.data, training.fold)
    values = forecast(resolved.config, manifest, config.world_size)
    values["runs"] = [str(one.path) for one in runs]
    values["decided"] = {name: {"value": value, "reason": why} for name, (value, why) in resolved.reasons.items()}
    if config.json:
        print(json.dumps(values, indent=2))
        return
    screen = Screen()
    for name, text in in_lines(values).items():
        screen.fact(name, text)
    for name, title in WARNINGS.items():
        if values[name] is not None:
            screen.fact(title, values[name], "warn")


@dataclass(frozen=True)
class Shares:
    """The steps of an epoch as the ranks see them."""

    padding: float
    """Share of the computed positions that hold no token, where each rank pads to its longest row."""
    worst_step: float
    """Largest difference in tokens between two ranks of one step, over the mean of that step."""
    mean_step: float
    """The same difference over all steps: their sum over the sum of means."""
    largest_padded_tokens: int
    """Most padded positions that one rank computes in one step."""


def opened(config: RunConfig, manifest: Manifest, split: str, spec: OrderSpec, world: int) -> tuple[Order, Shares]:
    """The order of a split, and its shares over as many windows as hold ``SAMPLED_ROWS`` rows."""
    rows = Split(config.data, manifest, split)
    order = order_over(rows, spec)
    steps: list[list[np.ndarray]] = []
    while len(steps) < order.steps_per_epoch and sum(len(row) for step in steps for row in step) < SAMPLED_ROWS:
        window = order.window(0, len(steps))
        lengths = np.concatenate([rows.blocks[block].length for block in window.blocks])
        for step in range(window.first_step, window.next_step):
            places = window.batch(step)
            steps.append([lengths[places[rank::world]] for rank in range(world)])
    tokens = np.array([[part.sum() for part in step] for step in steps], np.int64)
    padded = np.array([[len(part) * part.max(initial=0) for part in step] for step in steps], np.int64)
    apart, mean = np.ptp(tokens, axis=1), tokens.mean(axis=1)
    padding, worst = 1 - tokens.sum() / padded.sum(), (apart / mean).max()
    return order, Shares(float(padding), float(worst), float(apart.sum() / mean.sum()), int(padded.max()))


def forecast(config: RunConfig, manifest: Manifest, world_size: int) -> dict[str, Any]:
    """All figures. Raises ``UserError`` if the configuration does not fit the dataset or the processes."""
    check_model(config.model)
    check_names(config.tracking)
    TextPipeline.from_json(manifest.text, Path(config.data, MANIFEST))  # raises for a tokenizer that is not here
    check_fit(config, manifest, world_size)
    order, shares = opened(config, manifest, TRAIN, order_spec(config), world_size)
    classes, steps = class_rows(manifest, TRAIN), order.steps_per_epoch * config.epochs
    per_process = [order.smallest_step // world_size, -(-order.largest_step // world_size)]
    stream, positions = None, largest_at_once(config, per_process[1], shares)
    if config.order.unlabelled_batch:
        beside, theirs = opened(config, manifest, UNLABELLED, unlabelled_spec(config), world_size)
        positions = max(positions, largest_at_once(config, -(-beside.largest_step // world_size), theirs))
        stream = {
            "rows": beside.num_rows,
            "rows_per_step": [beside.smallest_step, beside.largest_step],
            "passes": steps / beside.steps_per_epoch,
        }
    return {
        "task": config.task,
        "rows": order.num_rows,
        "tokens": tokens_of(manifest, TRAIN),
        "classes": classes,
        "steps_per_epoch": order.steps_per_epoch,
        "steps": steps,
        "rows_per_step": [order.smallest_step, order.largest_step],
        "world_size": world_size,
        "rows_per_process": per_process,
        "ranks": asdict(shares),
        "memory": memory(config, manifest, positions),
        "unlabelled_stream": stream,
        "imbalance": imbalance(classes, config.optim.class_weights, config.evaluation.threshold),
        "few_steps": few_steps(order.steps_per_epoch, config.epochs),
        "too_few_for_a_gpu": too_few_for_a_gpu(per_process[1], config),
    }


def tokens_of(manifest: Manifest, split: str) -> int:
    """Real tokens of a split; 0 where it is not there."""
    return sum(info.tokens for info in manifest.splits.get(split, ()))


def largest_at_once(config: RunConfig, rows: int, shares: Shares) -> float:
    """Most padded positions that a process of so many ``rows`` a step holds at once."""
    held = config.micro_batch if isinstance(config.micro_batch, int) else rows
    return shares.largest_padded_tokens * min(1.0, held / rows)


def too_few_for_a_gpu(most: int, config: RunConfig) -> str | None:
    """A sentence if a process holds so few rows at once that a GPU would be mostly idle; ``most`` of a step are its."""
    held = min(most, config.micro_batch) if isinstance(config.micro_batch, int) else most
    if held >= ROWS_FOR_A_GPU:
        return None
    key = "micro_batch" if held < most else "global_batch_tokens" if config.global_batch_tokens else "global_batch"
    change = f"raise {key}{' or start fewer processes' if held == most else ''}"
    return f"{held} rows at once on a process keep no GPU busy, {ROWS_FOR_A_GPU} are the least; {change}"


def memory(config: RunConfig, manifest: Manifest, positions: float) -> dict[str, int]:
    """Bytes per process; activations are an estimate: what backward keeps of each padded position, in fp32."""
    shape, parameters = config.model, parameters_of(config, manifest)
    directions = 2 if shape.bidirectional else 1
    per_layer = directions * shape.hidden_size * (CELLS[shape.cell].gates + 1 + 1 + 1)
    per_token = 4 * (2 * shape.embedding_dim + shape.num_layers * per_layer)
    if config.task == LANGUAGE_MODEL:  # states, projections, targets' vectors and gradients; logits are as good as none
        per_token += 4 * directions * (shape.hidden_size + 3 * shape.embedding_dim)
    itemsize = 2 if manifest.id_dtype == "uint16" else 4
    read = [TRAIN, *([UNLABELLED] if config.order.unlabelled_batch else [])]
    return {
        "parameters": parameters,
        "weights_gradients_optimizer": 16 * parameters,
        "activations_estimate": int(positions * per_token),
        "tokens_on_device": itemsize * sum(tokens_of(manifest, name) for name in read),
    }


def in_lines(values: dict[str, Any]) -> dict[str, str]:
    """The figures of the plan in words, by name."""
    ranks, memory, stream, runs = (values[name] for name in ("ranks", "memory", "unlabelled_stream", "runs"))
    (low, high), (least, most) = values["rows_per_step"], values["rows_per_process"]
    lines = {"runs": f"{len(runs)}, one after the other; this is the first, {runs[0]}"} if runs else {}
    lines["rows"] = f"{values['rows']:,} with {values['tokens']:,} tokens"
    if values["task"] == LANGUAGE_MODEL:
        predicted = values["tokens"] - values["rows"]
        lines["task"] = f"language model; {predicted:,} tokens to predict an epoch, in each direction"
    else:
        lines["classes"] = in_words(values["classes"])
    if stream is not None:
        fewest, largest = stream["rows_per_step"]
        of_step = f"{fewest} to {largest} of them in every step"
        lines["unlabelled"] = f"{stream['rows']:,} rows, {of_step}: {stream['passes']:.2f} passes"
    device, kept = size(memory["tokens_on_device"]), size(memory["weights_gradients_optimizer"])
    return {
        **lines,
        "steps": f"{values['steps_per_epoch']:,} an epoch, {values['steps']:,} in all, of {low} to {high} rows",
        **{name: f"{one['value']}: {one['reason']}" for name, one in values["decided"].items()},
        "ranks": f"{values['world_size']}, each with {least} to {most} rows a step",
        "balance": f"ranks of a step differ by {ranks['mean_step']:.2%} in tokens, {ranks['worst_step']:.2%} at most",
        "padding": f"{ranks['padding']:.2%} of the computed positions (none where batches are packed)",
        "memory": f"{memory['parameters']:,} parameters, {kept} with gradients and optimizer; about "
        f"{size(memory['activations_estimate'])} for activations; {device} of tokens on a GPU",
    }
