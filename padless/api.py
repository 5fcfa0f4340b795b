# SPDX-License-Identifier: Apache-2.0
"""``prepare`` and ``train`` as functions, with the keys of the commands, and a run as an object.

A training never runs in the user's process. One process is forked from a server (``ForkServer``); several are started
by ``padless train``. Their output is passed on. On a CPU a long training takes several, if their number is left open.
"""

from __future__ import annotations

import html
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PosixPath
from subprocess import PIPE, STDOUT, Popen
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harness.baselines.teacher import prepare_teacher
from harness.config import LaunchRecipe, RunConfig
from harness.distributed import devices
from harness.evaluate import measure_here
from harness.inference.config import EvaluateConfig
from harness.inference.model import Model, Texts, chunks, load
from harness.rundir.layout import REPORT
from harness.rundir.metrics_log import read_metrics
from harness.rundir.results import read_measured
from harness.training import preflight
from harness.training.rules import ResolvedConfig, processes_on_cores, resolve_config
from padless.core import cli
from padless.core.atomic import temporary_folder
from padless.core.configuration import groups_of
from padless.core.errors import ERRORS, ConfigError, DataError, UserError
from padless.core.processes import available_cores
from padless.core.signals import PREEMPTED, listen_in_rank
from padless.core.terminal import Screen
from padless.core.untrusted import quote_value
from padless.fork_server import SERVER
from padless.frames import write_frame
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.inspect import Dataset, lines_on_rows
from preprocessing.dataset.shards import MANIFEST
from preprocessing.dataset.views import read_data
from preprocessing.labels import name_label_value
from preprocessing.pipeline.build import build_dataset
from preprocessing.sources.sources import FRAME

if TYPE_CHECKING:
    import pandas as pd

    Source = pd.DataFrame | str | Path | Sequence[str | Path]
ERROR = "error: "
"""How a command begins the sentence of its error."""
_training = threading.Lock()
"""Held while this process waits for a training, which has all cores."""


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
    overrides it. A row without a text is kept as an empty one, and counted. If the same dataset already exists, it is
    opened. Raises ``UserError``.
    """
    is_frame = not isinstance(source, str | Path | list | tuple)
    source_path: Any = FRAME if is_frame else source
    key_values: dict[str, Any] = {"config": config, "output": output}
    key_values |= {
        "source.path": np.atleast_1d(source_path).tolist(),
        "source.text_column": text,
        "source.label_column": label,
    }
    prepare_config = cli.parse(PreprocessConfig, words_of(key_values, options or {}), prog="padless.prepare")
    with temporary_folder() as folder:
        manifest = build_dataset(prepare_config, write_frame(source, folder) if is_frame else None)
    for line in lines_on_rows(manifest) if manifest else ():  # none: another share completes it
        Screen(quiet=prepare_config.quiet).print_text(line)
    return Dataset(prepare_config.output)


def train(
    data: Dataset | Source,
    run: str | Path | None = None,
    *,
    text: str | list[str] | None = None,
    label: str | None = None,
    config: str | Path | None = None,
    **keys: Any,
) -> Run:
    """Train on a dataset as ``padless train`` does, and return the run; the same call again resumes or opens it.

    Keys are those of the command: ``epochs=3``, ``num_processes=2``, ``optim={"lr": 1e-3}``. ``data`` may also be
    a frame or files, from which ``RUN-data`` is prepared first, with columns ``text`` and ``label`` and the keys of
    ``prepare``. An interrupt saves a checkpoint and raises ``KeyboardInterrupt``. Raises ``UserError``.
    """
    num_processes = keys.pop("num_processes", None)
    source: Any = data.path if isinstance(data, Dataset) else data
    is_path = isinstance(source, str | Path)
    if is_path and not Path(source).exists():
        read_data(source)  # a missing file is refused before its keys, which are none of a training
    elif not (is_path and Path(source, MANIFEST).exists()):
        if run is None:
            raise ConfigError('run: name its directory, as in padless.train(frame, "runs/mine")')
        prepare_options = {"quiet": keys.get("quiet", False), **pop_dataset_options(keys)}
        if keys.get("teacher") is not None and not isinstance(source, str | Path | list | tuple):
            Path(f"{run}-texts").mkdir(parents=True, exist_ok=True)
            source = write_frame(source, Path(f"{run}-texts"))  # which an encoder reads again
        source = prepare(source, text=text, label=label, output=f"{run}-data", options=prepare_options).path
    words = words_of({"config": config, "data": source, "run": run}, keys)
    launch_config = cli.parse(LaunchRecipe, words, prog="padless.train")
    if launch_config.seeds or launch_config.folds or num_processes not in (None, 1):
        launch([*words_of({"num_processes": num_processes}, {}), *words])
    else:
        train_alone(launch_config.recipe, words, processes=num_processes)
    return Run(launch_config.run)


def words_of(arguments: Mapping[str, Any], keys: Mapping[str, Any]) -> list[str]:
    """A command line: the ``arguments`` that are not None, then ``keys``, also in groups, where None is a value. Raises
    ``ConfigError`` for keys without values.
    """
    pairs = [(key, value) for key, value in arguments.items() if value is not None]
    if not isinstance(keys, Mapping):
        raise ConfigError(f'options: expected keys with values, as in {{"seed": 1}}, got {quote_value(keys)}')
    for key, item in keys.items():
        group = item.items() if isinstance(item, Mapping) and "." not in key else [("", item)]
        pairs += [(f"{key}.{name}".strip("."), value) for name, value in group]
    return cli.as_words(pairs)


def pop_dataset_options(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``prepare``, which are taken out of those of a training."""
    return {key: keys.pop(key) for key in list(keys) if key.partition(".")[0] in groups_of(PreprocessConfig)}


def train_alone(recipe: RunConfig, words: Sequence[str], *, processes: int | None = None, reports: bool = True) -> None:
    """Train in one new process, or by the command with ``words``, where several ``processes`` on a CPU are worth it."""
    SERVER.start()  # which imports torch meanwhile
    if recipe.teacher is not None:
        recipe = SERVER.call(prepare_teacher, recipe)
    resolved = resolve_config(recipe)
    by_user = processes is not None or recipe.threads is not None or devices.OMP in os.environ
    if not by_user and devices.count_cards(recipe.device, 1, 1) is None:
        choice = processes_on_cores(resolved.config, available_cores())
        if choice.value != "1":
            launch(words)
            return
        resolved = replace(resolved, processes=choice.reason)
    with _training:
        if (first := preflight.pretraining(recipe)) is not None:
            SERVER.call(train_here, replace(resolve_config(first), processes=resolved.processes), reports)
            if preflight.pretraining(recipe) is not None:  # a dry run, or no time was left
                return
        SERVER.call(train_here, resolved, reports)


def train_here(resolved: ResolvedConfig, reports: bool) -> None:
    """Train in this process, which then ends."""
    from harness.train import fit

    listen_in_rank()
    fit(resolved, reports=reports)


def launch(words: Sequence[str]) -> None:
    """``padless train`` in a process of its own. Raises what it ends with."""
    command, env = [sys.executable, "-m", "padless", "train", *words], {**os.environ, "PYTHONSAFEPATH": "1"}
    with Popen(command, env=env, text=True, start_new_session=True, stdout=PIPE, stderr=STDOUT) as process:
        last = pass_on(process)
    if (code := process.returncode) not in (0, PREEMPTED):
        raise ERRORS.get(code, UserError)(last.removeprefix(ERROR))


def pass_on(process: Popen[str]) -> str:
    """Print the output of a process, line by line, and send interrupts to it; returns its last line that is an error,
    else its last line: a warning may follow an error.
    """
    last = ""
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith(ERROR) or not last.startswith(ERROR):
                last = line.strip()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        pass_on(process)
        raise
    return last


def pair_labels(texts: Any, labels: Iterable[Any], name: str) -> tuple[list[str], list[Any]]:
    """Texts, and their labels as written. Raises ``DataError`` with the ``name`` of the labels."""
    if isinstance(labels, set | frozenset) or not isinstance(labels, Iterable):
        raise DataError(f"{name}: {type(labels).__name__} is no list, in which each text has its label; give one")
    flat_texts, names = [text for chunk in chunks(texts) for text in chunk], list(map(name_label_value, labels))
    if len(flat_texts) != len(names):
        raise DataError(f"{len(flat_texts):,} texts and {len(names):,} labels; give a label for each text")
    if None in names:
        raise DataError(f"{name}[{names.index(None)}] is missing; label this text, or leave it out")
    return flat_texts, names


class Report(PosixPath):
    """The path of a report; a notebook shows the page."""

    def _repr_html_(self) -> str:
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
        from harness.rundir.records import read_status

        return str(read_status(self.directory).get("state", "new"))

    @property
    def metrics(self) -> pd.DataFrame:
        """The lines of ``metrics.jsonl``, of the kinds train, validation and test."""
        return read_metrics(self.directory)

    @property
    def figures(self) -> dict[str, Any]:
        """Every figure of the best weights on the test split, else on validation; empty before the end."""
        measured = read_measured(self.directory)
        return {} if measured is None else measured.figures

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

    def evaluate(
        self, rows: Source | Texts | None = None, labels: Sequence[Any] | None = None, **keys: Any
    ) -> dict[str, Any]:
        """All figures of the best weights as a dict, as ``padless evaluate`` computes them, with its keys.

        ``rows`` are texts with their ``labels``, or a frame or files with a column of labels, or a dataset directory;
        without them a ``split`` is measured, ``test`` unless given. Files are written if ``output`` is given. Raises
        ``UserError``.
        """
        with _training, temporary_folder() as folder:
            arguments: dict[str, Any] = {"run": self.directory, "output": folder, "quiet": True}
            if labels is not None:
                texts, names = pair_labels(rows, labels, "labels")
                rows = pa.table({"text": pa.array(texts, pa.large_string()), "label": names})
                arguments |= {"source.text_column": "text", "source.label_column": "label"}
            elif isinstance(rows, (list, tuple)):
                raise ConfigError("rows: texts need labels, as in evaluate(texts, labels); files are one path or glob")
            if hasattr(rows, "__arrow_c_stream__"):
                rows = write_frame(rows, folder)
            words = words_of(arguments | {"input": rows}, keys)
            figures: dict[str, Any] = SERVER.call(measure_here, cli.parse(EvaluateConfig, words, prog="Run.evaluate"))
            return figures

    def __repr__(self) -> str:
        accuracy = self.figures.get("accuracy")
        return f"<padless run {self.directory}: {self.state}" + (f", accuracy {accuracy:.4f}>" if accuracy else ">")
