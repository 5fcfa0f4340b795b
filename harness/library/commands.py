# SPDX-License-Identifier: Apache-2.0
"""``prepare`` and ``train`` as functions, with the keys of the commands, and a run as an object.

One process trains in this one, which it leaves as it was. Several are started by ``padless train``, and its output is
passed on.
"""

from __future__ import annotations

import html
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from functools import cached_property
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from harness.config import LaunchRecipe, RunConfig
from harness.inference.model import Model, Texts, load
from harness.rundir.layout import REPORT
from harness.rundir.metrics_log import read_metrics
from harness.rundir.results import read_measured
from preprocessing.base import cli, processes
from preprocessing.base.cli import as_words
from preprocessing.base.configuration import groups_of
from preprocessing.base.errors import ERRORS, ConfigError, UserError
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.frames import Dataset
from preprocessing.dataset.shards import MANIFEST
from preprocessing.job import pipeline
from preprocessing.job.statistics import lines_on_rows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Source = pd.DataFrame | str | Path | Sequence[str | Path]
_training = threading.Lock()
"""Held while this process trains: threads and accelerate's state belong to all of it."""


def prepare(
    source: Source,
    *,
    text: str | list[str] | None = None,
    label: str | None = None,
    output: str | Path,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Build the dataset directory ``output`` from a frame (pandas, polars, Arrow, …), or from files.

    ``text`` and ``label`` name columns; without them, they are detected if only one fits. ``config`` is a YAML file or
    a recipe; ``options`` maps keys to values, as in ``{"splits.test": 0.2}`` or ``{"splits": {"test": 0.2}}``, and
    overrides it. A row without a text is refused unless ``source.missing_text`` is ``keep``. If the same dataset
    already exists, it is opened. Raises ``UserError``.
    """
    progress = sys.stdout if "ipykernel" in sys.modules else sys.stderr  # which a notebook shows as a warning
    with redirect_stderr(progress):
        data = build(source, text=text, label=label, output=output, config=config, options=options)
    for line in lines_on_rows(data.manifest):
        Screen().say(line)
    return data


def build(
    source: Any,
    *,
    text: str | list[str] | None,
    label: str | None,
    output: str | Path,
    config: Any = None,
    options: Any = None,
) -> Dataset:
    """``prepare``, without a word on rows that were left out."""
    is_frame = hasattr(source, "iloc") or hasattr(source, "__arrow_c_stream__")
    paths = [pipeline.FRAME] if is_frame else [source] if isinstance(source, str | Path) else list(source)
    columns = {f"source.{key}_column": name for key, name in (("text", text), ("label", label)) if name is not None}
    chosen = {**flat(options or {}), "source.path": paths, "output": output, **columns}
    words = ["--source.missing_text=error", *words_of(config, chosen)]
    parsed = cli.parse(PreprocessConfig, words, prog="padless.prepare")
    pipeline.prepare(parsed, source if is_frame else None)
    return Dataset(parsed.output)


def train(
    data: Dataset | Source,
    run: str | Path | None = None,
    *,
    text: str | list[str] | None = None,
    label: str | None = None,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    num_processes: int = 1,
    **keys: Any,
) -> Run:
    """Train on a dataset as ``padless train`` does, and return the run; the same call again resumes or opens it.

    Keys are those of the command: ``epochs=3``, ``optim={"lr": 1e-3}``, or dotted in ``options``. ``data`` may also be
    a frame or files, from which ``RUN-data`` is prepared first, with columns ``text`` and ``label`` and the keys of
    ``prepare``. An interrupt saves a checkpoint and raises ``KeyboardInterrupt``. Raises ``UserError``.
    """
    chosen = {**flat(options or {}), **flat(keys), **({} if run is None else {"run": run})}
    if not isinstance(data, Dataset) and not is_dataset(data):
        if run is None:
            raise ConfigError('run: name its directory, as in padless.train(frame, "runs/mine")')
        own = {"quiet": chosen.get("quiet", False), **taken_from(chosen)}
        data = prepare(data, text=text, label=label, output=f"{Path(run)}-data", options=own)
    place: Any = data.path if isinstance(data, Dataset) else data
    words = words_of(config, {**chosen, "data": place})
    asked = cli.parse(LaunchRecipe, words, prog="padless.train")
    if num_processes > 1 or asked.seeds or asked.folds or asked.self_training.rounds:
        launch(["--num_processes", str(num_processes), *words])
    else:
        train_here(asked.recipe)
    return Run(asked.run)


def is_dataset(data: Any) -> bool:
    """Whether to train on it as it is; a path that does not exist is one too, and the training says what it misses."""
    return isinstance(data, str | Path) and (Path(data, MANIFEST).exists() or not Path(data).exists())


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys with the groups of ``{"optim": {"lr": 1e-3}}`` as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping) and "." not in key
        found |= {f"{key}.{name}": one for name, one in value.items()} if nested else {key: value}
    return found


def taken_from(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``prepare``, which are removed from those of a training."""
    return {key: keys.pop(key) for key in list(keys) if key.partition(".")[0] in groups_of(PreprocessConfig)}


def words_of(config: str | Path | None, values: Mapping[str, Any]) -> list[str]:
    """A recipe and keys as a command line has them."""
    return as_words((values if config is None else {"config": config, **values}).items())


def train_here(recipe: RunConfig, *, resumes: bool = True) -> None:
    """Train in this process, which is then as it was before; nothing to do if the run has finished already.

    Without ``resumes`` an interrupt ends it at once, and no report is written.
    """
    with warnings.catch_warnings():  # without ipywidgets, of a bar that nothing draws
        warnings.filterwarnings("ignore", "IProgress not found")
        from harness.ranks.session import leaving_nothing
    from harness.ranks import stopping
    from harness.train import fit
    from harness.training import preflight
    from harness.training.rules import resolve

    resolved = resolve(recipe)
    config = resolved.config
    with _training:
        if preflight.check_run(config, lambda _: None, lambda _: None).finished and not config.dry_run:
            Screen(quiet=config.quiet).say(f"{config.run} has finished already; name another run to train again")
            return
        with stopping.noting() if resumes else nullcontext(), leaving_nothing():
            fit(resolved, reports=resumes)


def launch(words: Sequence[str]) -> None:
    """``padless train`` in a process of its own; its output is passed on, line by line, and interrupts to it.

    Raises what it ends with: ``UserError``, or ``KeyboardInterrupt``.
    """
    command = [sys.executable, "-m", "harness", "train", *words]
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    last, interrupted = "", False
    with subprocess.Popen(command, env=env, text=True, start_new_session=True, **streams) as process:
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    last = line.strip() or last
                    if not line.startswith("error: "):  # it is raised
                        print(line, end="", flush=True)
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                process.send_signal(signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
    if code not in (0, processes.PREEMPTED):
        raise ERRORS.get(code, UserError)(last.removeprefix("error: "))


class Report(PosixPath):
    """The path of a report; a notebook shows the page."""

    def _repr_html_(self) -> str | None:
        if not self.is_file():
            return None
        page = html.escape(self.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


class Run:
    """The directory of a run, as ``padless.train`` leaves it; also one that was trained by the command."""

    def __init__(self, directory: str | Path) -> None:
        """Read nothing yet."""
        self.directory = Path(directory)

    @property
    def state(self) -> str:
        """finished; preempted, if the same call goes on; failed, or running; new where nothing began."""
        from harness.rundir.records import known_status

        return str(known_status(self.directory).get("state", "new"))

    @property
    def metrics(self) -> pd.DataFrame:
        """The lines of ``metrics.jsonl``, of the kinds train, validation and test."""
        return read_metrics(self.directory)

    @property
    def figures(self) -> dict[str, Any]:
        """Every figure of the best weights on the test split, else on validation; empty before the end."""
        found = read_measured(self.directory)
        return {} if found is None else found.figures

    @property
    def report(self) -> Path:
        """The page with figures and plots; as the last value of a cell, a notebook shows it."""
        return Report(self.directory / REPORT)

    @cached_property
    def model(self) -> Model:
        """The best weights. Raises ``UserError`` before the first validation."""
        return load(self.directory)

    def predict(self, texts: Texts) -> np.ndarray:
        """The class of each text, by the best weights."""
        return self.model.predict(texts)

    def __repr__(self) -> str:
        accuracy = self.figures.get("accuracy")
        return f"<padless run {self.directory}: {self.state}" + (f", accuracy {accuracy:.4f}>" if accuracy else ">")
