# SPDX-License-Identifier: Apache-2.0
"""Measured side by side, in one run, alternating, medians: what padless does beside what people use today."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from preprocessing.base.errors import require
from preprocessing.base.screen import Screen

LARGEST = 1 << 24
"""Rows, features, repetitions: beyond it no machine measures anything."""


def check_sizes(config: Any, *names: str) -> None:
    """Raise ``ConfigError`` for a size of a bench that is below 1, or absurd."""
    for name in names:
        require(1 <= getattr(config, name) <= LARGEST, name, getattr(config, name), f"from 1 to {LARGEST:,}")


def alternate(
    contenders: dict[str, Callable[[], None]],
    rounds: int,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after one turn that does not count.

    ``pause_s`` comes after each turn, for contenders whose workers go on for a while after it. Contenders of one thread
    may be timed by another ``clock`` that counts their own time alone, ``time.process_time``.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            started = clock()
            run()
            if turn:
                times[name].append(clock() - started)
            time.sleep(pause_s)
    return {name: statistics.median(values) for name, values in times.items()}


def result(unit: str, values: dict[str, float]) -> dict[str, Any]:
    """The form that every bench prints: ``ours`` beside its peers, and ours / peer."""
    peers = {name: value for name, value in values.items() if name != "ours"}
    return {
        "unit": unit,
        "ours": values["ours"],
        "peers": peers,
        "ratios": {name: values["ours"] / value for name, value in peers.items()},
        "machine": describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    return {
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def show(values: dict[str, Any], *, as_json: bool) -> None:
    """Print a result as JSON or as a table."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    print(render_contenders("contender", values))
    if details := values.get("ours_details"):
        print("ours: " + ", ".join(f"{name} {value:.3g}" for name, value in details.items()))
    if short := values.get("short_texts"):
        print(render_contenders("short texts, one thread", short))
    if table := values.get("table"):
        print(render_table(table))
    Screen().say(", ".join(f"{key} {value}" for key, value in values["machine"].items()))


def render_contenders(title: str, values: dict[str, Any]) -> str:
    """Ours and its peers, a line each."""
    lines = [f"{title:<40} {values['unit']:>16} {'ours / it':>10}", f"{'ours':<40} {values['ours']:>16,.0f} {1:>10.2f}"]
    for name, value in values["peers"].items():
        lines.append(f"{name:<40} {value:>16,.0f} {values['ratios'][name]:>10.2f}")
    return "\n".join(lines)


def render_table(lines: list[dict[str, Any]]) -> str:
    """The comparison of the two paths, a line each; a cell for which the device had no memory says so."""
    rows = [f"{'hidden':>6} {'batch':>6} {'precision':>10} {'packed':>12} {'reversal':>12} {'reversal / packed':>18}"]
    for line in lines:
        shape = f"{line['hidden_size']:>6} {line['batch']:>6} {line['precision']:>10}"
        if line["reversal"] is None:
            rows.append(f"{shape} {'out of memory':>25}")
        else:
            ratio = line["reversal"] / line["packed"]
            rows.append(f"{shape} {line['packed']:>12,.0f} {line['reversal']:>12,.0f} {ratio:>18.2f}")
    return "\n".join(rows)
