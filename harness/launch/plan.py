# SPDX-License-Identifier: Apache-2.0
"""``python -m harness plan``: what a run will do, printed for people or as JSON; ``forecast`` computes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.config import require
from harness.data.checks import in_words
from harness.data.views import rows_of_task
from harness.launch import many
from harness.launch.asked import LaunchRecipe
from harness.launch.forecast import forecast
from harness.ranks import devices
from harness.settings.task import LANGUAGE_MODEL
from harness.training.rules import resolve
from preprocessing.base.errors import UserError
from preprocessing.base.printable import counted, size
from preprocessing.base.screen import TIE, Column, Screen, table
from preprocessing.dataset.shards import Manifest, read_manifest
from preprocessing.dataset.verification import check_files

WARNINGS = {"imbalance": "imbalance", "few_steps": "few steps", "too_few_for_a_gpu": "on a GPU"}
"""What may go wrong, by its key: how its line begins."""


MOST_WORLD = 1 << 20
"""Processes of a training that is planned."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a run will do, before it does it.

    Takes --config FILE and every key of the training too, as launch does: --global_batch 256, say.
    """

    world_size: int = 1
    """Processes that will train."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        fits = 1 <= self.world_size <= MOST_WORLD
        require(fits, "world_size", self.world_size, f"from 1 to {MOST_WORLD:,}")


def main(config: PlanConfig, asked: LaunchRecipe) -> None:
    """Print the plan, of many trainings that of the first.

    Raises ``UserError`` if the order is not what it promises, which only a bug can bring about.
    """
    training, runs = many.first(asked)
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
    beside = values["unlabelled_stream"]
    if not values["proof"]["each_row_once"] or (beside is not None and not beside["proof"]["each_row_once"]):
        raise UserError(f"{training.data}: the order does not hold what it promises; report this plan as a bug")


def show(values: dict[str, Any]) -> None:
    """Print the plan for people."""
    screen = Screen()
    for name, text in facts(values).items():
        screen.fact(name, text)
    for name in ("imbalance", "few_steps", "too_few_for_a_gpu"):
        if values[name] is not None:
            screen.fact(WARNINGS[name], values[name], "warn")
    screen.say("\npadding of an epoch, by global batch and length noise:")
    screen.table(batches(values["batches"], screen.width))
    screen.say("\npadding on disk, by ladder of shard widths:")
    screen.table(ladders(values["ladders"], screen.width))
    idle = ", ".join(f"{line['world_size']}{TIE}{line['idle']:.1%}" for line in values["world_sizes"])
    screen.say(f"\nworld sizes, and how long their ranks wait for one row of another: {idle}")


def fold_rows(manifest: Manifest) -> list[int]:
    """Rows of each fold of a dataset; empty where it has none."""
    rows = [0] * manifest.folds
    for info in (info for shards in manifest.splits.values() for info in shards):
        if info.fold is not None:
            rows[info.fold] += info.rows
    return rows


def facts(values: dict[str, Any]) -> dict[str, str]:
    """The figures of the plan in words, by name."""
    ranks: dict[str, Any] = values["ranks"]
    low, high = values["rows_per_step"]
    fewest, most = ranks["tokens_per_rank"]
    few, many = values["rows_per_process"]
    memory, there = dict(values["memory"]), values["unlabelled"]
    share = f"each with {few} to {many} rows a step, {fewest:,} to {most:,} tokens an epoch"
    proved = "each row exactly once" if values["proof"]["each_row_once"] else "ROWS ARE MISSING OR REPEATED"
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
        "proof": f"{proved}; counted over {values['proof']['steps_counted']:,} steps",
        "memory": "; ".join([f"{memory.pop('parameters'):,} parameters", *map(described, memory.items())]),
    }


def in_a_line(there: dict[str, int], stream: dict[str, Any] | None) -> str:
    """The unlabelled rows that a dataset has, and those that every step takes, if steps take any."""
    found = f"{there['rows']:,} rows with {there['tokens']:,} tokens"
    if stream is None:
        return found
    low, high = stream["rows_per_step"]
    once = "each row once a pass" if stream["proof"]["each_row_once"] else "ROWS ARE MISSING OR REPEATED"
    passes = f"{stream['passes']:.2f} passes of {stream['steps_per_pass']:,} steps"
    return f"{found}, {low} to {high} beside the others in every step: {passes}, {once}"


def task(values: dict[str, Any]) -> str:
    """What a pretraining predicts in an epoch."""
    return f"language model; {values['tokens'] - values['rows']:,} tokens to predict an epoch, in each direction"


def described(entry: tuple[str, int]) -> str:
    """One kind of memory of a process."""
    key, size_in_bytes = entry
    return f"{key.replace('_', ' ')}{TIE}{size(size_in_bytes).replace(' ', TIE)}"


def batches(lines: list[dict[str, Any]], width: int) -> list[str]:
    """Steps and padding of several batch sizes, a column for each length noise."""
    noises = list(dict.fromkeys(noise for line in lines for noise in line["padding"]))
    columns = [
        Column(key="global_batch", title="global batch"),
        Column(key="steps", title="steps/epoch"),
        *(Column(key=noise, title=f"noise {noise}", weight=place) for place, noise in enumerate(noises, 1)),
    ]
    rows = [
        {
            "global_batch": str(line["global_batch"]),
            "steps": f"{line['steps_per_epoch']:,}",
            **{noise: f"{value:.2%}" for noise, value in line["padding"].items()},
        }
        for line in lines
    ]
    return table(columns, rows, width)


def ladders(lines: list[dict[str, Any]], width: int) -> list[str]:
    """Padding on disk and bytes of several ladders of shard widths."""
    columns = [
        Column(key="ladder", title="ladder", right=False, shrinks=True),
        Column(key="padding", title="padding"),
        Column(key="bytes", title="bytes of ids"),
    ]
    rows = []
    for line in lines:
        widths = ", ".join(map(str, line["widths"][:5])) + (", …" if len(line["widths"]) > 5 else "")
        sizes = {"padding": f"{line['padding_on_disk']:.1%}", "bytes": f"{line['id_bytes']:,}"}
        rows.append({"ladder": f"{line['name']}: {widths}", **sizes})
    return table(columns, rows, width)
