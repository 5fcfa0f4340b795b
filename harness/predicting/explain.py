# SPDX-License-Identifier: Apache-2.0
"""``python -m harness explain``: what each word of a text, or of every row of a file, adds to a class."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.config import require
from harness.inference.explanation import check_label
from harness.inference.explanation_forms import EXPLANATIONS, FORMS, Explained
from harness.inference.tables import KINDS
from harness.predicting.command import lines_of_stdin
from harness.predicting.config import STDIN, PredictConfig, ReadingConfig
from harness.predicting.inputs import find, reading_by, wanted_by
from harness.rundir.bundle_files import bundle_directory, check_classifier, read_info
from harness.rundir.training_facts import Reading
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import bare
from preprocessing.base.screen import Screen
from preprocessing.base.storage import check_replaced, storing, temporary_folder
from preprocessing.corpus import addresses

Form = Literal["text", "json", "html"]
ENDINGS: dict[str, Form] = {
    **dict.fromkeys((".html", ".htm"), "html"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".txt": "text",
}
SAID: dict[Form, tuple[str, ...]] = {
    "html": (f'<meta name="generator" content="{EXPLANATIONS}">',),
    "json": ('"tokens": ', '"scores": ', '"baseline": '),
    "text": ("\nfor ", "\nagainst: "),
}
"""What a file of each form says that was written here."""
NOWHERE = "explanations/"
"""Stands for an output where an input is looked for; nothing is written there."""
Numbered = tuple[int | None, str]
"""A text, and its row in a file."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(ReadingConfig):
    """Show what each word of a text adds to the logit of a class, by integrated gradients.

    Texts are given on the command line, by - on standard input, one a line, or as the rows of a file (--input).
    """

    run: str | None = None
    """Run directory (or bundle directory) whose best weights are explained; unless it is the first word."""
    input: str | None = None
    """File, glob or folder with one text a row, here or remote: .csv, .tsv, .jsonl, .parquet, or .txt with one text a
    line; - is standard input."""
    input_format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt"] = "auto"
    """What the input is; auto takes it from the name, and standard input for one text a line."""
    rows: int | None = None
    """Explain only so many rows of the input; null: all."""
    label: str | None = None
    """Class to explain; null: the one predicted for each text."""
    format: Literal["auto", "text", "json", "html"] = "auto"
    """What is written: words with colours or scores, a JSON object a text, or one page; auto goes by --output."""
    output: str | None = None
    """File to write (.html, .jsonl, .json, .txt) in place of printing."""
    overwrite: bool = False
    """Replace an output that is there and holds something else."""
    batch: int = 16
    """Texts explained together."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a CUDA device if there is one."""
    quiet: bool = False
    """Do not say how many texts were explained."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.rows is None or self.rows >= 1, "rows", self.rows, "at least 1, or null")
        if self.input is None and (self.column is not None or self.rows is not None):
            raise ConfigError("column and rows say what is read of --input; name the file there")

    @property
    def form(self) -> Form:
        """What is written. Raises ``ConfigError`` for a file whose ending does not say."""
        if self.format != "auto":
            return self.format
        if self.output is None:
            return "text"
        form = ENDINGS.get(Path(self.output).suffix.lower())
        if form is None:
            raise ConfigError(f"--output {self.output}: unknown ending; use .html, .jsonl or .txt, or set --format")
        return form


def main(config: ExplainConfig, words: list[str]) -> int:
    """Explain the texts given, or the rows of the input file, with the best weights of a run."""
    run, texts = run_and_texts(config, words)
    if bool(texts) == (config.input is not None):
        raise ConfigError('nothing to explain, or two things: give texts (runs/mine "a fine film"), - or --input FILE')
    for text in texts:
        if Path(text).suffix.lower() in KINDS and os.path.isfile(text):
            raise ConfigError(f"{text}: a file, not a text; explain its rows with --input {text}")
    form, bundle = config.form, bundle_directory(run)
    info = read_info(bundle)
    check_classifier(bundle, info)
    if config.label is not None:
        check_label(config.label, info.labels)
    if config.input is None:
        numbered = from_words(texts)
    else:
        numbered = from_table(config, run, config.input, reading_by(config, bundle, info))
    if config.output is not None:
        check_output(config, config.output, form)
    first = next(numbered, None)  # a wrong file is refused before weights are read
    if first is None:
        raise DataError(f"{config.input}: holds no rows")
    found = explained(config, run, itertools.chain([first], numbered))
    if config.output is None:
        FORMS[form](bare(sys.stdout) if form == "html" else sys.stdout, run).write_all(found)
        return 0
    number = write_file(config, form, run, found)
    Screen(quiet=config.quiet).say(f"{number:,} explanation{'s' * (number != 1)} written to {config.output}")
    return 0


def check_output(config: ExplainConfig, output: str, form: Form) -> None:
    """Raise ``ConfigError`` for an output that is the input, or that holds no explanations and may not be replaced."""
    path = Path(output)
    named = [] if config.input in (None, STDIN) else addresses.find(str(config.input))
    if any(path.exists() and os.path.exists(name) and path.samefile(name) for name in named):
        raise ConfigError(f"--output {output}: is the input; name another file")
    check_replaced(path, config.overwrite, lambda: all(atomic.says(path, words) for words in SAID[form]))


def run_and_texts(config: ExplainConfig, words: list[str]) -> tuple[str, list[str]]:
    """The run, from its option or as the first word, and the texts."""
    if config.run is not None:
        return config.run, words
    if not words:
        raise ConfigError('no run named: explain RUN "text" takes a run directory, then texts')
    return words[0], words[1:]


def from_words(texts: list[str]) -> Iterator[list[Numbered]]:
    """Texts of the command line, or as they come on standard input."""
    for some in lines_of_stdin() if texts == [STDIN] else [texts]:
        yield [(None, text) for text in some]


def from_table(config: ExplainConfig, run: str, name: str, reading: Reading) -> Iterator[list[Numbered]]:
    """The rows of a file, or of several, as ``predict`` reads them. Raises ``DataError`` for the first that cannot be
    read, before any is given if all are.
    """
    wanted = wanted_by(config, reading)
    number = 0
    with temporary_folder() as work:
        asked = PredictConfig(run=run, input=name, format=config.input_format, output=NOWHERE)
        for one in find(asked, reading, work):
            table = one.table(wanted)
            if config.rows is None:
                for _ in table.pieces():
                    pass  # each row is looked at
            for piece in table.pieces():
                texts = piece.texts if config.rows is None else piece.texts[: config.rows - number]
                if texts:
                    yield list(enumerate(texts, number + 1))
                number += len(texts)
                if number == config.rows:
                    return


def explained(config: ExplainConfig, run: str, numbered: Iterator[list[Numbered]]) -> Iterator[Explained]:
    """Each text explained, a batch at a time."""
    from harness.inference.explainer import Explainer
    from harness.inference.torch_scorer import TorchScorer
    from harness.ranks.precision import choose_device, full_fp32

    full_fp32()
    explain = Explainer(TorchScorer(bundle_directory(run)), choose_device(config.device).value)
    for some in numbered:
        for start in range(0, len(some), config.batch):
            batch = some[start : start + config.batch]
            for (number, _), one in zip(batch, explain([text for _, text in batch], config.label), strict=True):
                yield number, one


def write_file(config: ExplainConfig, form: Form, run: str, found: Iterator[Explained]) -> int:
    """Write all of them to the output, which appears when it is whole; returns how many. Raises ``StorageError``."""
    assert config.output is not None
    with (
        storing(config.output, otherwise="name another --output"),
        atomic.replacing(config.output) as temporary,
        open(temporary, "w", encoding="utf-8") as stream,
    ):
        return FORMS[form](stream, run).write_all(found)
