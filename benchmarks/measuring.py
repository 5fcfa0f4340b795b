# SPDX-License-Identifier: Apache-2.0
"""Contenders side by side in one run: they take turns, and the median of each counts."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from preprocessing.base.errors import DataError, require

LARGEST = 1 << 24
"""Rows, features, repetitions: beyond it no machine measures anything."""
DISTRIBUTIONS = {"bs4": "beautifulsoup4"}
PACKAGES = ("torch", "numpy", "pyarrow", "nltk", "tokenizers", "scikit-learn", "pandas")


def peer_module(module: str) -> Any:
    """A peer's module. Raises ``DataError`` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        root = module.partition(".")[0]
        name = DISTRIBUTIONS.get(root, root)
        raise DataError(f"{root} is not installed; pip install {name} brings it") from None


def read_frame(file: Path) -> Any:
    """A CSV, JSON lines or Parquet file as pandas' frame."""
    import pandas as pd

    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    if file.suffix in (".jsonl", ".json"):
        return pd.read_json(file, lines=True, dtype=False, convert_dates=False)
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def check_sizes(config: Any, *names: str) -> None:
    """Raise ``ConfigError`` for a size of a bench that is below 1, or absurd."""
    for name in names:
        require(1 <= getattr(config, name) <= LARGEST, name, getattr(config, name), f"from 1 to {LARGEST:,}")


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after one turn that does not count.

    A contender that returns a number has measured its seconds itself. ``pause_s`` comes after each turn, for contenders
    whose workers go on for a while after it. Contenders of one thread may be timed by another ``clock`` that counts
    their own time alone, ``time.process_time``.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            started = clock()
            own = run()
            times[name].append(own if isinstance(own, float) else clock() - started)
            time.sleep(pause_s)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@contextmanager
def one_core() -> Iterator[None]:
    """What runs in the block has one core, with all its threads, where the system can say so."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        if torch:
            torch.set_num_threads(threads)


def result(unit: str, values: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """The form that every bench prints: ``ours`` beside its peers, ours / peer, and what else it has found."""
    peers = {name: value for name, value in values.items() if name != "ours"}
    ratios = {name: values["ours"] / value for name, value in peers.items()}
    return {"unit": unit, "ours": values["ours"], "peers": peers, "ratios": ratios, **more, "machine": machine()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cpus = Path("/proc/cpuinfo")
    names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")] if cpus.exists() else []
    torch = sys.modules.get("torch")
    return {
        "processor": names[0].partition(": ")[2] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else 1,
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **versions,
    }


def show(values: dict[str, Any], *, as_json: bool) -> None:
    """Print a result as JSON or as tables."""
    print(json.dumps(values, indent=2, ensure_ascii=False) if as_json else "\n".join(rendered(values)))


def rendered(values: dict[str, Any]) -> Iterator[str]:
    """Contenders, a line each; then every other part on one line."""
    ratios = {"ours": 1.0, **values["ratios"]}
    speeds = {"ours": values["ours"], **values["peers"]}
    lines = [(name, f"{speed:,.0f}", ratios[name]) for name, speed in speeds.items()]
    yield table([("contender", values["unit"], "ours / it"), *lines])
    for name, part in values.items():
        if name in ("unit", "ours", "peers", "ratios") or not part:
            continue
        if isinstance(part, dict):
            yield f"{name}: " + ", ".join(f"{key} {cell(value)}" for key, value in part.items())
        else:
            yield f"{name}: {cell(part)}"


def table(rows: Sequence[Sequence[object]]) -> str:
    """Cells below each other, the first of a row at its left; numbers with two digits."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def cell(value: object) -> str:
    """A value as a table shows it."""
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)
