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

from padless.core.errors import ConfigError, require
from padless.core.installed import require_package

Size = Annotated[int, Meta(ge=1, le=1 << 24)]
"""Rows, features, repetitions, within reasonable limits."""
PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class JsonConfig:
    """The key of every benchmark."""

    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(JsonConfig):
    """The keys of every benchmark whose contenders take turns."""

    rounds: Size = 5
    """Turns of each contender; the median counts."""


def peer_module(module: str) -> Any:
    """Import a peer's module. Raises ``ConfigError`` if it is not installed."""
    require_package(module.partition(".")[0], "benchmarks", "bench")
    return importlib.import_module(module)


def read_frame(file: Path) -> Any:
    """Read a CSV or Parquet file with pandas. Raises ``ConfigError``."""
    import pandas as pd

    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def alternate(
    contenders: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after a warm-up turn.

    If a contender returns a number, that is its time in seconds. After each turn workers have a pause to fill their
    queues in. ``clock``: ``time.process_time`` for single-threaded contenders counts only
    their own time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            started = clock()
            measured_s = run()
            times[name].append(measured_s if isinstance(measured_s, float) else clock() - started)
            time.sleep(PAUSE_S)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@contextmanager
def cores(number: int) -> Iterator[None]:
    """Pin this process with all its threads, and processes that it starts, to so many cores inside the block.

    Raises ``ConfigError`` if there are fewer.
    """
    cores_before = os.sched_getaffinity(0)
    require(number <= len(cores_before), "threads", number, f"at most the cores of this process, {len(cores_before)}")
    os.sched_setaffinity(0, sorted(cores_before)[-number:])
    try:
        with threadpool_limits(number):
            yield
    finally:
        os.sched_setaffinity(0, cores_before)


def print_result(config: JsonConfig, unit: str, values: Mapping[str, float], **facts: Any) -> None:
    """Print values of ``ours`` and its peers with the ratios ours / peer; then ``facts`` and the machine."""
    import pandas as pd

    facts["machine"], peers = machine(), dict(values)
    ours = peers.pop("ours")
    ratios = {name: ours / value for name, value in peers.items()}
    if config.json:
        result = {"unit": unit, "ours": ours, "peers": peers, "ratios": ratios, **facts}
        print(json.dumps(result, default=lambda frame: json.loads(frame.to_json(orient="records"))))
        return
    print(pd.DataFrame({unit: values, "ours / it": ratios}).to_string(float_format="{:,.2f}".format, na_rep=""))
    for name, fact in facts.items():
        print(f"{name}:\n{fact}")


def machine() -> str:
    """Processor, cores, device and versions of the measurement."""
    torch, cpus = sys.modules.get("torch"), Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    facts = [(names or [platform.machine()])[0], f"{len(os.sched_getaffinity(0))} cores"]
    facts.append(f"Python {platform.python_version()}")
    if torch:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        facts += [f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads"]
    return ", ".join(facts)
