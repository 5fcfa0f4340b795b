# SPDX-License-Identifier: Apache-2.0
"""``prepare`` and ``train`` as functions, with the keys of the commands, and a run as an object.

A training never runs in the user's process, but in one that is forked from a server (``ForkServer``), which starts
others if there are several. On a CPU a long training takes several, if their number is left open.
"""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import name_run
from harness.inference.config import EvaluateConfig
from harness.inference.evaluation import measure
from harness.inference.model import Model, Texts, load
from harness.launch.options import TrainConfig
from harness.rundir.layout import REPORT
from harness.rundir.metrics_log import read_metrics
from harness.rundir.records import read_status
from harness.rundir.results import read_measured
from padless.core.atomic import storage_errors, temporary_folder
from padless.core.configuration import build_config, flatten_groups, groups_of, read_files
from padless.core.errors import ERRORS, ConfigError, DataError, UserError
from padless.core.fork_server import SERVER
from padless.core.signals import PREEMPTED, listen_in_launcher
from padless.core.terminal import Screen
from padless.core.untrusted import one_line, quote_value
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.inspect import Dataset, lines_on_rows
from preprocessing.dataset.shards import MANIFEST
from preprocessing.dataset.views import read_data
from preprocessing.pipeline.build import build_dataset
from preprocessing.sources.parquet import value_type
from preprocessing.sources.sources import FRAME

if TYPE_CHECKING:
    import pandas as pd

    Source = pd.DataFrame | str | Path | Sequence[str | Path]
Config = TypeVar("Config")
GROUP_ROWS = 16384
"""Of a Parquet file that holds a frame."""
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
    paths = [*source] if isinstance(source, list | tuple) else [source]
    arguments = {
        "output": output,
        "source.path": [FRAME] if is_frame else paths,
        "source.text_column": text,
        "source.label_column": label,
    }
    prepare_config = configure(PreprocessConfig, arguments, options or {}, config)
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
    source: Any = data.path if isinstance(data, Dataset) else data
    is_path, options = isinstance(source, str | Path), None
    if is_path and not Path(source).exists():
        read_data(source)  # a missing file is refused before its keys, which are none of a training
    elif not (is_path and Path(source, MANIFEST).exists()):
        if run is None:
            raise ConfigError('run: name its directory, as in padless.train(frame, "runs/mine")')
        options = {"quiet": keys.get("quiet", False), **pop_dataset_options(keys)}
    dataset = source if options is None else f"{run}-data"
    launch_config = name_run(configure(TrainConfig, {"data": dataset, "run": run}, keys, config))
    SERVER.start()  # which imports torch meanwhile
    if options is not None:
        prepare(source, text=text, label=label, output=dataset, options=options)
    train_apart(launch_config)
    return Run(launch_config.run)


def configure(
    config_class: type[Config], arguments: Mapping[str, Any], keys: Mapping[str, Any], file: str | Path | None = None
) -> Config:
    """The configuration of a command from the ``arguments`` that are not None, and from ``keys``, also in groups, where
    None is a value; these win over the ``arguments``, and both over a YAML ``file`` or recipe. Raises ``ConfigError``.
    """
    if not isinstance(keys, Mapping):
        raise ConfigError(f'options: expected keys with values, as in {{"seed": 1}}, got {quote_value(keys)}')
    given_arguments = {key: value for key, value in arguments.items() if value is not None}
    values = flatten_groups(config_class, as_texts({**given_arguments, **keys}), "")
    config: Config = build_config(config_class, read_files(config_class, [] if file is None else [str(file)]) | values)
    return config


def as_texts(value: Any) -> Any:
    """A value as a YAML file has it: texts, lists and mappings; numbers and arrays may be numpy's."""
    if isinstance(value, np.generic | np.ndarray):
        return as_texts(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): as_texts(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_texts(entry) for entry in value]
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def pop_dataset_options(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys of ``prepare``, which are taken out of those of a training."""
    return {key: keys.pop(key) for key in list(keys) if key.partition(".")[0] in groups_of(PreprocessConfig)}


def train_apart(launch_config: TrainConfig, *, reports: bool = True) -> None:
    """``padless train`` in a new process. Raises what it ends with."""
    with _training:
        code = SERVER.call(train_here, launch_config, reports)
    if code not in (0, PREEMPTED):
        reason = read_status(launch_config.run).get("reason", "the training failed; its error is printed above")
        raise ERRORS.get(code, UserError)(reason)


def train_here(launch_config: TrainConfig, reports: bool) -> int:
    """``padless train`` in this process, which then ends; returns its exit code."""
    from harness.launch.many import main, start_here

    listen_in_launcher()
    return main(launch_config, partial(start_here, reports=reports))


def write_frame(frame: Any, folder: Path) -> str:
    """Write the rows of a frame to a file in ``folder``; returns its path. Raises ``DataError`` for what is no table,
    ``StorageError`` if writing fails.
    """
    path = folder / "frame.parquet"
    with storage_errors(path):
        pq.write_table(table_of_frame(frame), path, row_group_size=GROUP_ROWS, compression="lz4")
    return str(path)


def table_of_frame(frame: Any) -> pa.Table:
    """A frame of pandas, or of another library by Arrow's protocol, as a table that Parquet can hold."""
    try:
        if hasattr(frame, "iloc"):
            return pa.Table.from_pandas(frame, preserve_index=False)
        table = pa.table(frame)
        types = [(field.name, value_type(field.type)) for field in table.schema]
        return table.cast(pa.schema(types, table.schema.metadata))
    except (pa.ArrowException, AttributeError, ValueError, TypeError) as error:
        problem = f"a {type(frame).__name__} is no table that Arrow can hold ({one_line(error)})"
        raise DataError(f"{problem}; give a frame whose columns have one type each, or the names of files") from None


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

    def evaluate(self, rows: Source | None = None, **keys: Any) -> dict[str, Any]:
        """All figures of the best weights as a dict, as ``padless evaluate`` computes them, with its keys.

        ``rows`` are a frame or files with a column of labels, or a dataset directory; without them a ``split`` is
        measured, ``test`` unless given. Files are written if ``output`` is given. Raises ``UserError``.
        """
        with _training, temporary_folder() as folder:
            path = write_frame(rows, folder) if hasattr(rows, "__arrow_c_stream__") else rows
            arguments = {"run": self.directory, "input": path, "output": folder, "quiet": True}
            figures: dict[str, Any] = SERVER.call(measure, configure(EvaluateConfig, arguments, keys))
            return figures

    def __repr__(self) -> str:
        accuracy = self.figures.get("accuracy")
        return f"<padless run {self.directory}: {self.state}" + (f", accuracy {accuracy:.4f}>" if accuracy else ">")
