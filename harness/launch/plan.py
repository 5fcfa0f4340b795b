# SPDX-License-Identifier: Apache-2.0
"""``python -m harness plan``: what a run will do, printed for people or as JSON; ``forecast`` computes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.config import Recipe, require
from harness.launch.forecast import forecast
from harness.ranks import threads
from harness.training.rules import resolve
from preprocessing.base.errors import UserError
from preprocessing.dataset.shards import read_manifest


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
        require(self.world_size >= 1, "world_size", self.world_size, "at least 1")


def main(config: PlanConfig, training: Recipe) -> None:
    """Print the plan. Raises ``UserError`` if the order is not what it promises, which only a bug can bring about."""
    resolved = resolve(training)
    values = forecast(resolved.config, read_manifest(training.data), config.world_size)
    values["decided"] = {name: {"value": value, "reason": why} for name, (value, why) in resolved.reasons.items()}
    count, reason = threads.choose_here(training.threads, config.world_size)
    values["threads"] = {"value": count, "reason": reason}
    if config.json:
        print(json.dumps(values, indent=2))
    else:
        show(values)
    if not values["proof"]["each_row_once"]:
        raise UserError(f"{training.data}: the order does not hold what it promises; report this plan as a bug")


def show(values: dict[str, Any]) -> None:
    """Print the plan for people."""
    ranks: dict[str, Any] = values["ranks"]
    low, high = values["rows_per_step"]
    fewest, most = ranks["tokens_per_rank"]
    print(f"rows       {values['rows']:,} with {values['tokens']:,} tokens, in {values['windows']} windows")
    print(f"steps      {values['steps_per_epoch']:,} an epoch, {values['steps']:,} in all, of {low} to {high} rows")
    for name, decided in values["decided"].items():
        print(f"{name:<10} {decided['value']}: {decided['reason']}")
    few, many = values["rows_per_process"]
    share = f"each with {few} to {many} rows a step, {fewest:,} to {most:,} tokens an epoch"
    print(f"ranks      {values['world_size']}, {share}")
    print(f"threads    {values['threads']['value']} each on a CPU: {values['threads']['reason']}")
    if values["too_few_for_a_gpu"] is not None:
        print(f"on a GPU   {values['too_few_for_a_gpu']}")
    print(f"balance    ranks of a step differ by {ranks['mean_step']:.2%} in tokens, {ranks['worst_step']:.2%} at most")
    print(f"padding    {ranks['padding']:.2%} of the computed positions (none where batches are packed)")
    proved = "each row exactly once" if values["proof"]["each_row_once"] else "ROWS ARE MISSING OR REPEATED"
    print(f"proof      {proved}; counted over {values['proof']['steps_counted']:,} steps")
    print("memory     " + ", ".join(f"{key} {value:,}" for key, value in values["memory"].items()))
    print("\nglobal batch  steps/epoch  padding by length noise")
    for line in values["batches"]:
        shown = ", ".join(f"{noise}: {value:.2%}" for noise, value in line["padding"].items())
        print(f"{line['global_batch']:>12}  {line['steps_per_epoch']:>11,}  {shown}")
    print("\nladder of shard widths                padding on disk  bytes of ids")
    for line in values["ladders"]:
        widths = ", ".join(map(str, line["widths"][:5])) + (", …" if len(line["widths"]) > 5 else "")
        print(f"{line['name'] + ': ' + widths:<44} {line['padding_on_disk']:>8.1%} {line['id_bytes']:>13,}")
    print("\nworld sizes, and how long their ranks wait for one row of another: ", end="")
    print(", ".join(f"{line['world_size']} {line['idle']:.1%}" for line in values["world_sizes"]))
