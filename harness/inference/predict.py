# SPDX-License-Identifier: Apache-2.0
"""``python -m harness predict``: raw text in, probability out, through the code and vocabulary of the training."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.config import require
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.results import prediction_columns, probability_column
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.screen import Screen
from preprocessing.base.terminal import cells, shortened

if TYPE_CHECKING:
    import pandas as pd


CHUNK_ROWS = 2048
FEWEST, MOST = 20, 80
"""Cells of a text that a line to read shows at least, and where its output is no terminal."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict texts given on the command line, or every row of a file."""

    run: str
    """Run directory (or bundle directory) whose best weights predict."""
    input: str | None = None
    """File with one text a row: .csv, .tsv, .jsonl, .parquet, or .txt with one text a line."""
    column: str = "text"
    """Column of the input that holds the text."""
    output: str | None = None
    """File to write: .parquet, .csv or .jsonl; the input's columns and the predictions."""
    json: bool = False
    """Print one JSON object a text instead of a line to read."""
    batch: int = 128
    """Rows computed at once."""
    quiet: bool = False
    """Do not say how many rows of a file were predicted."""

    def __post_init__(self) -> None:
        """Check ranges and that input and output come together."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        if (self.input is None) != (self.output is None):
            raise ConfigError("--input and --output go together: name the file to read and the file to write")


class Predictor:
    """A loaded bundle; ``__call__`` takes any number of texts."""

    def __init__(self, run: str | Path, batch_rows: int = 128) -> None:
        """Load and verify the bundle of ``run``, or the bundle directory ``run`` itself."""
        from harness.inference.bundle import read_bundle

        self.bundle = read_bundle(bundle_directory(run))
        self.encoder = self.bundle.encoder()
        self.batch_rows = batch_rows
        self.labels = self.bundle.info.labels

    def logits(self, texts: list[str]) -> np.ndarray:
        """The model's own, before calibration: float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        from harness.inference.logits import logits_of

        encoded = self.encoder(texts)
        return logits_of(self.bundle.model, np.split(encoded.ids, encoded.offsets[1:-1]), self.batch_rows)

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """Columns ``predicted`` and ``probability_LABEL``, calibrated, with the bundle's temperature and threshold."""
        decision = self.bundle.decision
        logits = decision.calibrated(self.logits(texts))
        return prediction_columns(predicted_labels(logits, decision.threshold), probabilities(logits), self.labels)


def main(config: PredictConfig, texts: list[str]) -> int:
    """Predict the texts given, or every row of the input file, with the best weights of a run."""
    if bool(texts) == (config.input is not None):
        raise ConfigError('nothing to predict, or two things: give texts ("a fine film") or --input FILE --output FILE')
    if config.input is not None and config.output is not None:
        return predict_file(config, config.input, config.output)
    predictor = Predictor(config.run, config.batch)
    columns, screen = predictor(texts), Screen()
    for number, text in enumerate(texts):
        values = {name: column[number] for name, column in columns.items()}
        if config.json:
            print(json.dumps({"text": text, **values}))
            continue
        chance = values[probability_column(values["predicted"])]
        head = f"{values['predicted']}  {chance:.4f}  "
        screen.write([head + shortened(text, max(screen.width - cells(head), FEWEST) if screen.is_live else MOST)])
    return 0


def predict_file(config: PredictConfig, source: str, target: str) -> int:
    """Predict every row of ``source`` and write its columns with the predictions to ``target``."""
    import pandas as pd

    write = writer_of(target)
    frame = read_table(source)
    if config.column not in frame.columns:
        raise DataError(
            f"{source}: no column {config.column!r}; it has {', '.join(map(str, frame.columns))}; use --column"
        )
    texts = frame[config.column]
    wrong = [number for number, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{source}: row {wrong[0] + 1}: column {config.column!r} holds no text; fill or remove the row")
    if frame.empty:
        raise DataError(f"{source}: holds no rows")
    predictor = Predictor(config.run, config.batch)
    parts = [pd.DataFrame(predictor(chunk)) for chunk in chunks(texts.tolist())]
    with atomic.replacing(target) as temporary:
        write(pd.concat([frame.reset_index(drop=True), pd.concat(parts, ignore_index=True)], axis=1), temporary)
    Screen(quiet=config.quiet).say(f"{len(frame):,} predictions written to {target}")
    return 0


def chunks(texts: list[str]) -> Iterator[list[str]]:
    """Texts in pieces of a bounded number of rows."""
    for start in range(0, len(texts), CHUNK_ROWS):
        yield texts[start : start + CHUNK_ROWS]


def read_table(source: str) -> pd.DataFrame:
    """A file as a frame, by its ending. Raises ``DataError`` if it is missing or not what its ending says."""
    import pandas as pd

    suffix = Path(source).suffix
    try:
        if suffix in (".csv", ".tsv"):
            return pd.read_csv(source, sep="\t" if suffix == ".tsv" else ",")
        if suffix in (".jsonl", ".ndjson"):
            return pd.read_json(source, lines=True)
        if suffix == ".parquet":
            return pd.read_parquet(source)
        if suffix == ".txt":
            return pd.DataFrame({"text": Path(source).read_text(encoding="utf-8").splitlines()})
    except OSError as error:
        raise DataError(f"{source}: {os.strerror(error.errno) if error.errno else error}") from None
    except ValueError as error:
        raise DataError(f"{source}: not readable as {suffix} ({' '.join(str(error).split())})") from None
    raise ConfigError(f"--input {source}: unknown ending; use .csv, .tsv, .jsonl, .parquet or .txt")


def writer_of(target: str) -> Any:
    """The function ``(frame, path)`` that writes files with this ending."""
    writers = {
        ".parquet": lambda frame, path: frame.to_parquet(path),
        ".csv": lambda frame, path: frame.to_csv(path, index=False),
        ".jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    }
    if Path(target).suffix not in writers:
        raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv or .jsonl")
    return writers[Path(target).suffix]
