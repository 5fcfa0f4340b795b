# SPDX-License-Identifier: Apache-2.0
"""``padless plan``: what a run will do, computed from its configuration and dataset.

Steps and rows are exact. Padding and time steps are those of the order's first windows, up to ``SAMPLED_ROWS`` rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from harness.config import LANGUAGE_MODEL, LaunchRecipe, RunConfig
from harness.data.checks import check_fit, class_rows, few_steps, imbalance, in_words, order_spec
from harness.data.order import Order, order_over
from harness.data.views import rows_of_task
from harness.launch.launcher import trainings
from harness.model.registry import exchanged_parameters, parameters_of
from harness.ranks.devices import cards
from harness.tracking.trackers import check_names
from harness.training.rules import resolve
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import Screen, size
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import open_split, read_data
from preprocessing.text.spec import TextPipeline

SAMPLED_ROWS = 300_000
LAUNCHES_S, PASSES_S = 0.4e-3, 10e-6
"""Forecast for a GPU: 60 kernels beside the recurrence; one time step of one layer, forward and backward."""
PRODUCTS_PER_S, GRADIENTS_PER_S = 1e14, 1e11
"""Forecast: floating-point operations of one GPU in bf16; bytes of gradients between GPUs."""
WARNINGS = {"imbalance": "imbalance", "few_steps": "few steps"}
"""Key of each warning: how its line begins."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(LaunchRecipe):
    """Show what a run will do, without training; it takes every key that train takes."""

    world_size: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    """Processes that will train."""
    json: bool = False
    """Print JSON."""


def main(config: PlanConfig) -> None:
    """Print the plan; of many trainings, that of the first."""
    (training, *_), runs = trainings(config)
    resolved = resolve(training, lambda: cards_of(training, config.world_size))
    manifest = rows_of_task(training.task, read_data(training.data), training.data, training.fold)
    values = forecast(resolved.config, manifest, config.world_size)
    values |= {"runs": [str(one.path) for one in runs], "pretrain": training.init.pretrain}
    values["decided"] = {name: choice._asdict() for name, choice in resolved.reasons.items()}
    if config.json:
        print(json.dumps(values, indent=2))
        return
    screen = Screen()
    for name, text in in_lines(values).items():
        screen.fact(name, text)
    for name, title in WARNINGS.items():
        if values[name] is not None:
            screen.fact(title, values[name], "warn")


def forecast(config: RunConfig, manifest: Manifest, world_size: int) -> dict[str, Any]:
    """All figures. Raises ``UserError`` if the configuration does not fit the dataset or the processes."""
    check_names(config.tracking)
    TextPipeline.from_json(manifest.text, Path(config.data, MANIFEST))  # raises for a tokenizer that is not installed
    check_fit(config, manifest, world_size)
    order = order_over(open_split(config.data, manifest, TRAIN), order_spec(config))
    classes = {} if config.task == LANGUAGE_MODEL else class_rows(manifest, TRAIN)
    steps, most = order.steps_per_epoch * config.epochs, -(-order.largest_step // world_size)
    parameters = parameters_of(config, manifest)
    return {
        "rows": order.num_rows,
        "tokens": manifest.tokens(TRAIN),
        "classes": classes,
        "steps_per_epoch": order.steps_per_epoch,
        "steps": steps,
        "rows_per_step": [order.smallest_step, order.largest_step],
        "world_size": world_size,
        "rows_per_process": [order.smallest_step // world_size, most],
        "ranks": (ranks := shares(order, world_size)),
        "gpu_step_s": gpu_step_s(config, ranks["time_steps"], most, exchanged_parameters(config, manifest), world_size),
        "memory": {
            "parameters": parameters,
            "weights_gradients_optimizer": 16 * parameters,
            "tokens_on_device": (2 if manifest.id_dtype == "uint16" else 4) * manifest.tokens(TRAIN),
        },
        "imbalance": imbalance(classes, config.optim.class_weights, config.evaluation.threshold),
        "few_steps": few_steps(order.steps_per_epoch, config.epochs),
    }


def shares(order: Order, world_size: int) -> dict[str, float]:
    """``padding``: the share of computed positions that hold no token, where each rank pads to its longest row;
    ``time_steps``: the mean longest row of a step.
    """
    longest: list[int] = []
    rows = tokens = padded = 0
    while len(longest) < order.steps_per_epoch and rows < SAMPLED_ROWS:
        window = order.window(0, len(longest))
        lengths = np.concatenate([order.lengths(block) for block in window.blocks])[window.places]
        rows, tokens = rows + len(lengths), tokens + int(lengths.sum())
        for step in np.split(lengths, window.cuts[1:-1]):
            longest.append(int(step.max()))
            parts = [step[rank::world_size] for rank in range(world_size)]
            padded += sum(len(part) * int(part.max(initial=0)) for part in parts)
    return {"time_steps": float(np.mean(longest)), "padding": 1 - tokens / padded}


def cards_of(config: RunConfig, world_size: int) -> int | None:
    """The number of GPUs that would train: asked for, which need not be here, or visible; None on CPUs."""
    if config.device == "cuda":
        return world_size
    return cards(config.device, world_size, world_size)


def gpu_step_s(config: RunConfig, time_steps: float, rows: int, parameters: int, world_size: int) -> float:
    """A forecast of the seconds of a step with ``rows`` on each GPU, of which ``parameters`` are exchanged. Time steps
    are computed one after the other, so few rows take as long as many.
    """
    model, directions = config.model, 1 + config.model.bidirectional
    numbers = 4 * model.hidden_size * (model.embedding_dim + model.hidden_size) * directions
    of_products = 6 * numbers * rows / PRODUCTS_PER_S  # an addition and a product in each of three passes
    between = 8 * parameters * (world_size - 1) / world_size / GRADIENTS_PER_S
    return LAUNCHES_S + model.num_layers * time_steps * max(PASSES_S, of_products) + between


def span(least: int, most: int) -> str:
    """``31 to 32``, or ``32``."""
    return f"{least}" if least == most else f"{least} to {most}"


def in_lines(values: dict[str, Any]) -> dict[str, str]:
    """The figures of the plan in words, by name."""
    ranks, memory, runs = (values[name] for name in ("ranks", "memory", "runs"))
    lines = {"runs": f"{len(runs)}, one after the other; this is the first, {runs[0]}"} if runs else {}
    if before := values["pretrain"]:
        lines["first"] = f"a language model of these texts; plan it with --config {before}"
    lines["rows"] = f"{values['rows']:,} with {values['tokens']:,} tokens"
    if values["classes"]:
        lines["classes"] = in_words(values["classes"])
    kept, tokens = size(memory["weights_gradients_optimizer"]), size(memory["tokens_on_device"])
    return {
        **lines,
        "steps": f"{values['steps_per_epoch']:,} an epoch, {values['steps']:,} in all, of "
        f"{span(*values['rows_per_step'])} rows",
        **{name: f"{one['value']}: {one['reason']}" for name, one in values["decided"].items()},
        "ranks": f"{values['world_size']}, each with {span(*values['rows_per_process'])} rows a step",
        "padding": f"{ranks['padding']:.2%} of the computed positions (none where batches are packed)",
        "on GPUs": f"about {1e3 * values['gpu_step_s']:.1f} ms a step, a forecast: {ranks['time_steps']:.0f} time "
        "steps follow one another, for few rows as for many",
        "memory": f"{memory['parameters']:,} parameters, {kept} with gradients and optimizer; {tokens} of tokens on a "
        "GPU; padless train --dry_run measures the rest",
    }
