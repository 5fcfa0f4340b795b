# SPDX-License-Identifier: Apache-2.0
"""Contenders measured in one run: they take turns, and the median of each counts."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from threadpoolctl import threadpool_limits

from harness.rundir.records import installed_version
from preprocessing.base.errors import DataError, require
from preprocessing.base.installed import require_package

Size = Annotated[int, Meta(ge=1, le=1 << 24)]
"""Rows, features, repetitions, within reasonable limits."""
PACKAGES = ("torch", "numpy", "pyarrow", "nltk", "tokenizers", "scikit-learn", "pandas")


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The keys of every benchmark whose contenders take turns."""

    rounds: Size = 5
    """Turns of each contender; the median counts."""
    json: bool = False
    """Print JSON instead of a table."""


def print_result(measure: Callable[[Any], dict[str, Any]]) -> Callable[[Any], None]:
    """A command that prints the result of ``measure``, as JSON or as tables."""

    def main(config: BenchmarkConfig) -> None:
        values = measure(config)
        print(json.dumps(values, indent=2, ensure_ascii=False) if config.json else "\n".join(format_result(values)))

    return main


def peer_module(module: str) -> Any:
    """Import a peer's module. Raises ``ConfigError`` if it is not installed."""
    require_package(module.partition(".")[0], "benchmarks", "bench")
    return importlib.import_module(module)


def read_frame(file: Path) -> Any:
    """Read a CSV, JSON lines or Parquet file with pandas."""
    import pandas as pd

    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    if file.suffix in (".jsonl", ".json"):
        return pd.read_json(file, lines=True, dtype=False, convert_dates=False)
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def peer(left_out: dict[str, str], name: str, build: Callable[[], Any], *more: Any) -> dict[str, Any]:
    """A peer with ``more``, by its name; nothing if it lacks data, which ``left_out`` then reports."""
    try:
        return {name: (build(), *more)}
    except DataError as error:
        left_out[name] = str(error)
        return {}


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    pause_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after a warm-up turn.

    If a contender returns a number, that is its time in seconds. ``pause_s``: pause after each turn, for contenders
    whose workers continue for a while. ``clock``: ``time.process_time`` for single-threaded contenders counts only
    their own time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            started = clock()
            measured_s = run()
            times[name].append(measured_s if isinstance(measured_s, float) else clock() - started)
            time.sleep(pause_s)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Pin this process with all its threads, and processes that it starts, to so many cores inside the block.

    Raises ``ConfigError`` if there are fewer.
    """
    torch, cores_before = sys.modules.get("torch"), os.sched_getaffinity(0)
    require(number <= len(cores_before), "threads", number, f"at most the cores of this process, {len(cores_before)}")
    threads = torch.get_num_threads() if torch else 1
    os.sched_setaffinity(0, sorted(cores_before)[-number:])
    if torch:
        torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        os.sched_setaffinity(0, cores_before)
        if torch:
            torch.set_num_threads(threads)


def result(unit: str, values: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """The result format of every benchmark: values of ``ours`` and its peers, ratios ours / peer, and ``more``."""
    peers = {name: value for name, value in values.items() if name != "ours"}
    ratios = {name: values["ours"] / value for name, value in peers.items()}
    return {"unit": unit, "ours": values["ours"], "peers": peers, "ratios": ratios, **more, "machine": machine()}


def machine() -> dict[str, Any]:
    """Facts of the machine of the measurement."""
    torch, cpus = sys.modules.get("torch"), Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    versions = {name: installed_version(name) for name in PACKAGES}
    return {
        "processor": (names or [platform.machine()])[0],
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads() if torch else 1,
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def format_result(values: dict[str, Any]) -> Iterator[str]:
    """Contenders, one per line; then every other part on one line."""
    import pandas as pd

    speeds = {"ours": values["ours"], **values["peers"]}
    columns = {values["unit"]: speeds, "ours / it": {"ours": 1.0, **values["ratios"]}}
    frame = pd.DataFrame(columns).rename_axis(columns="contender")
    yield frame.to_string(formatters=["{:,.0f}".format, "{:,.2f}".format])
    for name, part in values.items():
        if name not in ("unit", "ours", "peers", "ratios"):
            pairs = part.items() if isinstance(part, dict) else [("", part)]
            parts = (f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in pairs)
            yield f"{name}: {', '.join(parts)}"
