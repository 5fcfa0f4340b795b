# SPDX-License-Identifier: Apache-2.0
"""``python -m harness bench NAME``: every bench by name, and how its result is shown."""

from __future__ import annotations

import importlib
import json
from typing import Any

from preprocessing.base import cli

PROG = "python -m harness bench"
BENCHES = {
    "recurrence": "One LSTM layer on each path, forward and backward.",
    "train": "A training step, beside the loops that people write today.",
    "loader": "Loading batches of token ids, beside the loaders of PyTorch, Hugging Face, Lightning and MosaicML.",
}
"""Bench -> what it measures; each is a module here with ``CONFIG``, its options, and ``measure``."""


def main(argv: list[str]) -> int:
    """``bench NAME [options]``."""
    if argv[:1] in (["-h"], ["--help"]):
        print(f"usage: {PROG} NAME [options]   (NAME --help says more)\n")
        print(*(f"  {name:<12} {summary}" for name, summary in BENCHES.items()), sep="\n")
        return 0
    name, arguments = cli.choose(BENCHES, argv, PROG)
    bench = importlib.import_module(f"harness.bench.{name}")
    config: Any = cli.parse(bench.CONFIG, arguments, prog=f"{PROG} {name}", description=bench.CONFIG.__doc__ or "")
    show(bench.measure(config), config.json)
    return 0


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print a result as JSON or as a table."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    print(f"{'contender':<40} {values['unit']:>16} {'ours / it':>10}")
    print(f"{'ours':<40} {values['ours']:>16,.0f} {1:>10.2f}")
    for name, value in values["peers"].items():
        print(f"{name:<40} {value:>16,.0f} {values['ratios'][name]:>10.2f}")
    if details := values.get("ours_details"):
        print("ours: " + ", ".join(f"{name} {value:.3g}" for name, value in details.items()))
    if table := values.get("table"):
        print(render_table(table))
    print(", ".join(f"{key} {value}" for key, value in values["machine"].items()))


def render_table(lines: list[dict[str, Any]]) -> str:
    """The comparison of the two paths, a line each."""
    head = f"{'hidden':>6} {'batch':>6} {'precision':>10} {'packed':>12} {'reversal':>12} {'reversal / packed':>18}"
    return "\n".join(
        [head]
        + [
            f"{line['hidden_size']:>6} {line['batch']:>6} {line['precision']:>10} {line['packed']:>12,.0f} "
            f"{line['reversal']:>12,.0f} {line['reversal'] / line['packed']:>18.2f}"
            for line in lines
        ]
    )
