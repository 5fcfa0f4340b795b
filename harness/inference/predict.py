# SPDX-License-Identifier: Apache-2.0
"""``python -m harness predict``: raw text in, probability out, through the code and vocabulary of the training."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.config import require
from harness.inference.hub import local
from harness.inference.pieces import CHUNK_ROWS, Source, decoded
from harness.inference.scorers import Engine, open_scorer
from harness.inference.tables import check_free, kind_of_output, open_output, open_table
from harness.rundir.bundle_files import BundleInfo, bundle_directory, check_classifier, read_info
from harness.rundir.results import prediction_columns, probability_column
from harness.rundir.training_facts import read_training
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError, StorageError
from preprocessing.base.screen import Screen
from preprocessing.base.terminal import cells, shortened

STDIN = "-"
TEXT = "text"
AVAILABLE_BYTES = 1 << 16
"""Most that is taken from standard input at once; less where less has come."""
FEWEST, MOST = 20, 80
"""Cells of a text that a line to read shows at least, and where its output is no terminal."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict texts given on the command line, or every row of a file."""

    run: str
    """Run directory, bundle, export folder or hf://owner/name, whose best weights predict."""
    input: str | None = None
    """File with one text a row: .csv, .tsv, .jsonl, .parquet, or .txt with one text a line; - is standard input."""
    column: str | None = field(default=None, metadata={"also": ("text_column", "source.text_column")})
    """Column of the input that holds the text; null: the one of the corpus of the training, or text."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt"] = "auto"
    """What the input is; auto takes it from the name, and standard input for one text a line."""
    output: str | None = None
    """File to write: .parquet, .csv, .tsv or .jsonl; the input's columns, unchanged, and the predictions."""
    prefix: str = ""
    """Stands before the names of the new columns, where the input has a column predicted already."""
    json: bool = False
    """Print one JSON object a text instead of a line to read."""
    batch: int = 128
    """Rows computed at once."""
    engine: Engine = "auto"
    """What computes: torch; onnx or onnx-int8, ONNX Runtime, of an export that has that form; auto takes torch where it
    can be imported, else onnx."""
    quiet: bool = False
    """Do not say how many rows of a file were predicted."""

    def __post_init__(self) -> None:
        """Check ranges and that input and output come together."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        if (self.input is None) != (self.output is None) and self.input != STDIN:
            raise ConfigError("--input and --output go together: name the file to read and the file to write")


class Predictor:
    """A loaded model; ``__call__`` takes any number of texts."""

    def __init__(self, run: str | Path, batch_rows: int = 128, engine: Engine = "auto") -> None:
        """Load and verify the model of ``run``; see ``open_scorer``."""
        self.scorer = open_scorer(run, engine, batch_rows)
        self.labels, self.decision = self.scorer.labels, self.scorer.decision

    def logits(self, texts: list[str]) -> np.ndarray:
        """The model's own, before calibration: float64 ``[texts]`` for two classes, ``[texts, classes]`` for more."""
        return self.scorer.logits(texts)

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """Columns ``predicted`` and ``probability_LABEL``, calibrated, with the bundle's temperature and threshold."""
        logits = self.decision.calibrated(self.logits(texts))
        return prediction_columns(predicted_labels(logits, self.decision.threshold), probabilities(logits), self.labels)


def main(config: PredictConfig, texts: list[str]) -> int:
    """Predict the texts given, or every row of the input file, with the best weights of a run."""
    config = replace(config, run=str(local(config.run)))
    if texts == [STDIN] and config.input is None:
        texts, config = [], replace(config, input=STDIN)
    if bool(texts) == (config.input is not None):
        raise ConfigError('nothing to predict, or two things: give texts ("a fine film") or --input FILE --output FILE')
    if config.input is not None and config.output is not None:
        return predict_file(config, source_of(config.input), config.output)
    predictor = Predictor(config.run, config.batch, config.engine)
    for some in [texts] if texts else lines_of_stdin():
        show(predictor, some, config.json)
    return 0


def show(predictor: Predictor, texts: list[str], as_json: bool) -> None:
    """Print a line for each text."""
    columns, screen = predictor(texts), Screen()
    for number, text in enumerate(texts):
        values = {name: column[number] for name, column in columns.items()}
        if as_json:
            print(json.dumps({"text": text, **values}))
            continue
        chance = values[probability_column(values["predicted"])]
        head = f"{values['predicted']}  {chance:.4f}  "
        screen.write([head + shortened(text, max(screen.width - cells(head), FEWEST) if screen.is_live else MOST)])
    sys.stdout.flush()


def lines_of_stdin() -> Iterator[list[str]]:
    """The texts on standard input, one a line, as many at a time as have come. Raises ``DataError`` for no text."""
    if sys.stdin.isatty():
        print("one text a line; Ctrl-D ends", file=sys.stderr)
    stdin: Any = sys.stdin.buffer
    rest, number = b"", 0
    while piece := stdin.read1(AVAILABLE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for start in range(0, len(lines), CHUNK_ROWS):
            some = lines[start : start + CHUNK_ROWS]
            yield [text_of(line, at) for at, line in enumerate(some, number + 1)]
            number += len(some)
    if rest:
        yield [text_of(rest, number + 1)]
    elif not number:
        raise DataError("standard input: holds no text; give one a line")


def text_of(line: bytes, number: int) -> str:
    """The text of a line of standard input."""
    mark = b"\xef\xbb\xbf" if number == 1 else b""
    return decoded(line.removeprefix(mark).removesuffix(b"\r"), f"standard input: line {number}")


def source_of(name: str) -> Source:
    """The file of this name, or standard input, which is read whole."""
    return Source("standard input", sys.stdin.buffer.read()) if name == STDIN else Source(name)


def usual_columns(bundle: Path, info: BundleInfo) -> list[str]:
    """Where texts stand if nobody says: in the column that the training read them from, else in ``text``."""
    known = read_training(bundle, info.dataset) or {}
    return list(dict.fromkeys((known.get("source", {}).get("text_column") or TEXT, TEXT)))


def predict_file(config: PredictConfig, source: Source, target: str) -> int:
    """Predict every row of ``source`` and write its columns with the predictions to ``target``.

    The whole input is looked at before the first row is predicted. Raises ``DataError``, ``StorageError``.
    """
    kind = kind_of_output(target)
    info = read_info(bundle_directory(config.run))
    check_classifier(bundle_directory(config.run), info)
    wanted = [config.column] if config.column is not None else usual_columns(bundle_directory(config.run), info)
    table = open_table(
        source, "txt" if source.content is not None and config.format == "auto" else config.format, wanted
    )
    rows = table.scan()
    if not rows:
        raise DataError(f"{source.name}: holds no rows")
    names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
    check_free(source, table, names)
    predictor = Predictor(config.run, config.batch, config.engine)
    try:
        with atomic.replacing(target) as temporary:
            output = open_output(temporary, kind, table, names)
            try:
                for piece in table.pieces():
                    found = predictor(piece.texts) if piece.texts else {}
                    output.write(piece, dict(zip(names, found.values(), strict=False)))
            finally:
                output.close()
    except OSError as error:
        what = error.strerror or error
        raise StorageError(f"{target}: cannot be written ({what}); make room, or name another --output") from None
    Screen(quiet=config.quiet).say(f"{rows:,} predictions written to {target}")
    return 0
