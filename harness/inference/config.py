# SPDX-License-Identifier: Apache-2.0
"""The options of predict, explain, evaluate and label."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from harness.config import NOTHING
from harness.inference.scorer import Engine
from preprocessing.base.errors import ConfigError, require
from preprocessing.base.schema import AtLeast1, LocalPath, Name, Processes, Seconds, ShareText, Wait
from preprocessing.base.split_names import TEST
from preprocessing.config import MOST_PART_MB, ExecutorConfig, Names, SourceConfig
from preprocessing.corpus.addresses import COMPRESSED_SUFFIXES
from preprocessing.corpus.readers import BYTE_ORDER_MARK, TEXT_NAME
from preprocessing.corpus.sources import FORMAT_BY_SUFFIX, suffix_of
from preprocessing.dataset.shards import MANIFEST
from preprocessing.labels import AUTO

STDIN = "-"
FILE_ENDINGS = (*FORMAT_BY_SUFFIX, *COMPRESSED_SUFFIXES, ".zip", ".txt", ".xls", ".doc", ".docx", ".pdf")
"""A word that ends so is no text to predict."""
WINDOWS_PATH = re.compile(r"[A-Za-z]:\\")
HEADER = re.compile(r'"?\w+"?([,;\t]"?\w+"?)+\s*')
WRITTEN = {ending: kind for ending, kind in FORMAT_BY_SUFFIX.items() if kind != "xlsx"} | {".tsv": "tsv"}
"""Ending of a file of predictions -> its format."""
InputFormat = Literal["auto", "csv", "jsonl", "parquet", "xlsx", "txt"]
Form = Literal["text", "json", "html"]
PredictionPrecision = Literal["auto", "fp32", "bf16"]
ENDINGS: dict[str, Form] = {
    **dict.fromkeys((".html", ".htm"), "html"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
}
"""Ending of a file of explanations -> its format."""


@dataclass(frozen=True, kw_only=True)
class RunningConfig:
    """What every use of a run has."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA devices when there are any."""
    quiet: bool = False
    """Print nothing but warnings and errors."""


def check_source(source: SourceConfig) -> None:
    """Raise ``ConfigError`` if ``source.path`` is set: ``--input`` names the files."""
    if source.path != SourceConfig().path:
        raise ConfigError("source.path: --input names the files; leave this out")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunningConfig):
    """Evaluate the best weights of a run on new labelled rows, or on a split of a dataset.

    New rows are read like the training corpus.
    """

    SUBJECT = ("run", "input")
    batch: AtLeast1 = 512
    """Rows per batch and process."""
    stage_dir: str = NOTHING
    """Local directory to which each node copies the split first, from a slow network file system."""
    timeout_s: Seconds = 600
    """Maximum wait of one process for another."""
    threads: Processes | None = None
    """Threads of each process on a CPU. null: OMP_NUM_THREADS where you set it, else its share of the cores."""
    run: Name
    """Run directory (or bundle directory) whose best weights are evaluated."""
    input: Name | None = None
    """Labelled rows: a file, a glob or a folder, in any format that preprocessing reads; or a dataset directory."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How to read the input, where it differs from the training corpus."""
    data: str | None = None
    """Dataset directory, instead of an input; its vocabulary must be that of the training. null: the dataset of
    that training."""
    split: str = TEST
    """Split of the dataset."""
    output: LocalPath | None = None
    """Directory for the figures and the predictions; RUN/evaluation unless given."""
    precision: PredictionPrecision = "auto"
    """As in `padless predict`; the test figures that a training writes at its end are fp32."""
    json: bool = False
    """Print the figures as one JSON object instead of tables."""

    def __post_init__(self) -> None:
        """Check ranges, and that ``input`` and ``data`` are not both given."""
        if self.input is not None and self.data is not None:
            raise ConfigError(f"data: {self.input} and {self.data}: one evaluation is of one of the two; leave one out")
        if self.input is not None and os.path.isfile(os.path.join(self.input, MANIFEST)):
            vars(self).update(data=self.input, input=None)
        if self.input is not None and self.split != TEST:
            raise ConfigError(f"split: {self.input} has no splits, all of it is measured; leave this out")
        if self.output is not None and os.path.isfile(self.output):
            raise ConfigError(f"output: {self.output} is a file; name a directory")
        check_source(self.source)
        if self.source.has_unlabelled:
            what = "an evaluation needs labelled rows"
            raise ConfigError(f"source.unlabelled_path and source.missing_label: {what}; drop skips the others")


def names_file(word: str) -> bool:
    """Whether a word names a file, a glob or a folder rather than is a text; the file need not exist."""
    if word == STDIN or os.path.exists(word) or WINDOWS_PATH.match(word):
        return True
    return not re.search(r"\s", word) and ("://" in word or word.lower().endswith(FILE_ENDINGS))


def piped_format() -> str | None:
    """The format of what is piped or redirected to this command, from its first line: csv after a header that names
    texts, jsonl from an object on, else txt. None for a terminal and other devices.
    """
    with suppress(AttributeError, OSError, ValueError):  # there is no standard input, or a notebook's
        if not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode):
            stdin: Any = sys.stdin.buffer
            line = stdin.peek().removeprefix(BYTE_ORDER_MARK).split(b"\n")[0].decode("utf-8", "replace").lower()
            if HEADER.fullmatch(line) and any(map(TEXT_NAME.fullmatch, re.findall(r"\w+", line))):
                return "csv"
            return "jsonl" if line.startswith('{"') else "txt"
    return None


def beside(inputs: Sequence[str]) -> str:
    """The file of the predictions of ``inputs``, in this folder: named and written like the first of them."""
    name = Path(inputs[0]).name
    ending, stem = suffix_of(name), re.split(r"\W*[.*?[]", name)[0]
    return f"{stem}-predicted{ending if ending in WRITTEN else '.csv'}".lstrip("-")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(RunningConfig):
    """How files of texts are read."""

    SUBJECT = ("run", "texts")
    FORMAT: ClassVar[str] = "format"
    """The key of the input's format."""
    run: Name
    """Run directory, bundle, export folder or hf://owner/name, whose best weights are used."""
    texts: list[str] = field(default_factory=list)
    """Texts; - is standard input, one text a line. Names of files are taken for --input; without any, what is piped to
    the command, which may be a CSV file with a header."""
    input: Name | Names | None = None
    """Files, globs or folders with one text per row, local or remote (s3://, gs://, …): .csv, .tsv, .jsonl, .json,
    .parquet, .xlsx, or .txt with one text a line; in a folder, each .txt file is a text. - is standard input."""
    column: Name | Names | None = None
    """Column of the input that holds the text, or several; null: those of the training corpus, or text."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How to read the input, where it differs from the training corpus."""

    def __post_init__(self) -> None:
        """Check that ``source.path`` is not set; take ``texts`` that are names of files for ``input``."""
        check_source(self.source)
        if self.input is None and self.texts and all(map(names_file, self.texts)):
            vars(self).update(input=self.texts, texts=[])
        if not (self.texts or self.inputs) and (piped := piped_format()):
            vars(self)["input"] = STDIN
            if getattr(self, self.FORMAT) == AUTO:
                vars(self)[self.FORMAT] = piped
        if bool(self.texts) == bool(self.inputs):
            run = self.run if os.path.isdir(self.run) else "runs/mine"
            raise ConfigError(f'texts or a file (not both) follow the run, as in padless predict {run} "a fine film"')
        if self.texts and self.column is not None:
            raise ConfigError("column: texts are given here; name a file, of which the column is read")

    @property
    def inputs(self) -> Sequence[str]:
        """``input`` as a list."""
        return [] if self.input is None else [self.input] if isinstance(self.input, str) else self.input

    @property
    def given(self) -> SourceConfig:
        """``source``, with ``column`` as its text column."""
        return self.source if self.column is None else replace(self.source, text_column=self.column)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadingConfig):
    """Predict texts given on the command line, or every row of files of any size."""

    format: InputFormat = "auto"
    """Format of the input; auto goes by the name, and reads standard input as one text a line."""
    missing: Literal["error", "keep"] = "error"
    """Rows without a text: error refuses them before predicting anything, keep predicts an empty text."""
    output: LocalPath | None = None
    """File to write (.parquet, .csv, .tsv or .jsonl): the input's columns, unchanged, and the predictions. null:
    NAME-predicted with the ending of the input, in this folder."""
    prefix: str = ""
    """Prefix for the names of the new columns, if the input already has a column predicted."""
    overwrite: bool = False
    """Discard an unfinished prediction, or replace a file that holds something else."""
    engine: Engine = "auto"
    """torch, or ONNX Runtime (onnx; needs an export with that file); auto takes torch if it can be imported, else
    onnx."""
    precision: PredictionPrecision = "auto"
    """Arithmetic of the recurrent layers; auto: bf16 if the device computes it natively and at least 999 of 1,000
    validation rows kept their label in it at the end of training, else fp32, which is exact."""
    processes: Processes | None = None
    """Processes on this machine, each with one thread on a CPU; null: one per core, and one for a CUDA device."""
    executor: Literal["local", "dask"] = "local"
    """local: processes on this machine; dask: the workers of a running scheduler."""
    scheduler: str | None = None
    """dask: address of the scheduler (tcp://host:8786) or the path of its scheduler file."""
    share: ShareText | None = None
    """i/n: one of n commands that write one output on a disk that all see, as tasks of a SLURM array do: it makes every
    n-th part, and share 0 waits for the others and puts the parts together (0/n to n-1/n, or 1/n to n/n)."""
    timeout_s: Wait = 3600.0
    """Longest wait for the next part; then the command fails, or a share makes the parts of others itself, as it does
    after half a minute for those that do not run."""
    part_mb: Annotated[float, Meta(gt=0, le=MOST_PART_MB)] = 8.0
    """Megabytes of text per part: what one process predicts at a time, and what an interruption can lose."""
    batch: AtLeast1 = 1024
    """Maximum rows of a batch; fewer for long texts."""
    json: bool = False
    """Print one JSON object per text instead of a readable line."""

    def __post_init__(self) -> None:
        """Check ranges; name the output of an input. Texts, and lines of standard input, are answered here."""
        super().__post_init__()
        if self.texts and self.output is not None:
            raise ConfigError("output: texts are answered here; name a file of texts to write a file of predictions")
        are_lines = self.inputs == [STDIN] and self.format in ("auto", "txt")
        if self.inputs and not are_lines and self.json:
            raise ConfigError("json: predictions of a file are written to a file; leave this out; -o new.jsonl is JSON")
        if self.inputs and not are_lines and self.output is None:
            vars(self).update(output=beside(self.inputs))
        if self.share and (self.overwrite or self.output is None or STDIN in self.inputs):
            raise ConfigError("share: shares predict files to a new output, without overwrite; name both")
        self.executor_config()

    def executor_config(self, num_workers: int | None = None) -> ExecutorConfig:
        """The executor; ``num_workers`` is the number of local processes if ``processes`` is null."""
        workers = self.processes or (num_workers if self.executor == "local" else None)
        return ExecutorConfig(
            kind=self.executor,
            workers=workers,
            scheduler=self.scheduler,
            share=self.share,
            timeout_s=self.timeout_s,
        )


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(ReadingConfig):
    """Show what each word of a text adds to the logit of a class, by integrated gradients.

    Texts are given on the command line, by - on standard input, one a line, or as the rows of a file.
    """

    FORMAT = "input_format"
    input_format: InputFormat = "auto"
    """Format of the input; auto goes by the name, and reads standard input as one text a line."""
    rows: AtLeast1 | None = None
    """Explain only this many rows of the input; null: all."""
    label: str | None = None
    """Class to explain; null: the one predicted for each text."""
    format: Literal["auto", "text", "json", "html"] = "auto"
    """Output format: words with colours or scores, one JSON object per text, or one page; auto goes by --output."""
    output: LocalPath | None = None
    """File to write (.html, .jsonl, .json, .txt) instead of printing."""
    overwrite: bool = False
    """Replace an existing output that holds something else."""
    batch: AtLeast1 = 16
    """Texts explained together."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.texts and self.rows is not None:
            raise ConfigError("rows: texts are given here; name a file, of which some rows are explained")
        ending = Path(self.output or "").suffix
        require(ending in (*ENDINGS, ".txt", ""), "output", self.output, f"the ending {', '.join(ENDINGS)} or .txt")

    @property
    def form(self) -> Form:
        """The output format; text for a file of another ending."""
        return ENDINGS.get(Path(self.output or "").suffix.lower(), "text") if self.format == "auto" else self.format
