# SPDX-License-Identifier: Apache-2.0
"""Contenders side by side in one run: they take turns, and the median of each counts."""

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

from harness.rundir.records import installed_version
from preprocessing.base.installed import needed

Size = Annotated[int, Meta(ge=1, le=1 << 24)]
"""Rows, features, repetitions: beyond it no machine measures anything."""
PACKAGES = ("torch", "numpy", "pyarrow", "nltk", "tokenizers", "scikit-learn", "pandas")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The keys of every benchmark whose contenders take turns."""

    rounds: Size = 5
    """Turns of each contender; the median counts."""
    json: bool = False
    """Print JSON instead of a table."""


def printed(measure: Callable[[Any], dict[str, Any]]) -> Callable[[Any], None]:
    """The command that prints what ``measure`` finds, as JSON or as tables."""

    def main(config: Measured) -> None:
        values = measure(config)
        print(json.dumps(values, indent=2, ensure_ascii=False) if config.json else "\n".join(rendered(values)))

    return main


def peer_module(module: str) -> Any:
    """A peer's module. Raises ``ConfigError`` where it is not installed."""
    needed(module.partition(".")[0], "benchmarks", "bench")
    return importlib.import_module(module)


def read_frame(file: Path) -> Any:
    """A CSV, JSON lines or Parquet file as pandas' frame."""
    import pandas as pd

    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    if file.suffix in (".jsonl", ".json"):
        return pd.read_json(file, lines=True, dtype=False, convert_dates=False)
    return pd.read_csv(file, dtype=str, keep_default_na=False)


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
    """What runs in the block has one core, with all its threads."""
    torch, cores = sys.modules.get("torch"), os.sched_getaffinity(0)
    threads = torch.get_num_threads() if torch else 1
    os.sched_setaffinity(0, {max(cores)})
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        if torch:
            torch.set_num_threads(threads)


def result(unit: str, values: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """The form that every benchmark prints: ``ours`` beside its peers, ours / peer, and what else it has found."""
    peers = {name: value for name, value in values.items() if name != "ours"}
    ratios = {name: values["ours"] / value for name, value in peers.items()}
    return {"unit": unit, "ours": values["ours"], "peers": peers, "ratios": ratios, **more, "machine": machine()}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    torch, cpus = sys.modules.get("torch"), Path("/proc/cpuinfo")
    names = [line for line in cpus.read_text().splitlines() if line.startswith("model name")] if cpus.exists() else []
    return {
        "processor": names[0].partition(": ")[2] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads() if torch else 1,
        "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **{name: version for name in PACKAGES if (version := installed_version(name))},
    }


def rendered(values: dict[str, Any]) -> Iterator[str]:
    """Contenders, a line each; then every other part on one line."""
    import pandas as pd

    speeds = {"ours": values["ours"], **values["peers"]}
    columns = {values["unit"]: speeds, "ours / it": {"ours": 1.0, **values["ratios"]}}
    frame = pd.DataFrame(columns).rename_axis(columns="contender")
    yield frame.to_string(formatters=["{:,.0f}".format, "{:,.2f}".format])
    for name, part in values.items():
        if name not in ("unit", "ours", "peers", "ratios"):
            pairs = part.items() if isinstance(part, dict) else [("", part)]
            shown = (f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in pairs)
            yield f"{name}: {', '.join(shown)}"
