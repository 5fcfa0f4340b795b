# SPDX-License-Identifier: Apache-2.0
"""The options of predict, explain, evaluate and export."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from harness.inference.scorer import Engine
from harness.rundir.layout import check_figures_directory
from padless.core.atomic import refuse_inside
from padless.core.configuration import Texts
from padless.core.errors import ConfigError, DataError
from padless.core.jobs import ExecutorConfig
from padless.core.schema import AtLeast1, LocalPath, Name, Processes, ShareText, Wait
from padless.core.split_names import TEST, UNLABELLED
from preprocessing.config import Names, SourceConfig
from preprocessing.dataset.shards import MANIFEST
from preprocessing.sources.addresses import COMPRESSED_SUFFIXES
from preprocessing.sources.sources import FORMAT_BY_SUFFIX, suffix_of

STDIN = "-"
FILE_SUFFIXES = (*FORMAT_BY_SUFFIX, *COMPRESSED_SUFFIXES, ".zip", ".txt", ".xls", ".xlsx", ".doc", ".docx", ".pdf")
"""A word that ends so is no text to predict."""
OUTPUT_SUFFIXES = (".parquet", ".csv", ".jsonl")
"""Of files of predictions."""
PredictionPrecision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class RunningConfig:
    """What every use of a run has."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA devices when there are any."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    source: SourceConfig = SourceConfig()
    """How to read the input, where it differs from the training corpus."""

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` if ``source.path`` is set: ``input`` names the files."""
        if self.source.path:
            raise ConfigError("source.path: --input names the files; leave this out")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(RunningConfig):
    """Evaluate the best weights of a run on new labelled rows, or on a split of a dataset.

    New rows are read like the training corpus.
    """

    SUBJECT = ("run", "input")
    run: LocalPath
    """Run directory (or bundle directory) whose best weights are evaluated."""
    input: Name | None = None
    """Labelled rows: a file, a glob or a folder, in any format that preprocessing reads; or a dataset directory."""
    data: str | None = None
    """Dataset directory, instead of an input; its vocabulary must be that of the training. null: the dataset of
    that training."""
    split: str = TEST
    """Split of the dataset."""
    output: LocalPath | None = None
    """Directory for the figures and the predictions; RUN/evaluation unless given."""
    precision: PredictionPrecision = "fp32"
    """As in `padless predict`."""
    json: bool = False
    """Print the figures as one JSON object instead of tables."""

    def __post_init__(self) -> None:
        """Raise ``ConfigError`` for rows without labels."""
        super().__post_init__()
        if self.source.has_unlabelled:
            problem = "an evaluation needs labelled rows"
            raise ConfigError(f"source.unlabelled_path and source.missing_label: {problem}; drop skips the others")


def resolve_evaluation(config: EvaluateConfig) -> EvaluateConfig:
    """Take an input that is a dataset directory for ``data``. Raises ``ConfigError`` for two inputs, and for an output
    that must not be replaced, ``DataError`` for a split without labels.
    """
    if config.input is not None:
        if config.data is not None:
            both = f"{config.input} and {config.data}"
            raise ConfigError(f"data: {both}: one evaluation is of one of the two; leave one out")
        if os.path.isfile(os.path.join(config.input, MANIFEST)):
            config = replace(config, data=config.input, input=None)
        elif config.split != TEST:
            raise ConfigError(f"split: {config.input} has no splits, all of it is measured; leave this out")
    if config.split == UNLABELLED:
        raise DataError(
            f"{config.data or config.run}: the rows of split {UNLABELLED} have no labels to compare with; `padless "
            "predict` scores the file that they are from"
        )
    if config.output is not None:
        check_figures_directory(config.output, config.run)
    return config


def names_file(word: str) -> bool:
    """Whether a word names a file, a glob or a folder rather than is a text; the file need not exist."""
    if word == STDIN or os.path.exists(word) or any(glob.iglob(word)):
        return True
    return not re.search(r"\s", word) and ("://" in word or word.lower().endswith(FILE_SUFFIXES))


def default_output(inputs: Sequence[str], input_format: str) -> str:
    """The file of the predictions of ``inputs``, in this folder: named and written like the first of them."""
    name = Path(inputs[0]).name
    suffix, stem = suffix_of(name), re.split(r"\W*[.*?[]", name)[0]
    other_suffix = ".jsonl" if input_format == "jsonl" else ".csv"
    return f"{stem}-predicted{suffix if suffix in OUTPUT_SUFFIXES else other_suffix}".lstrip("-")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(RunningConfig):
    """How texts are given."""

    SUBJECT = ("run", "texts")
    run: Name
    """Run directory, bundle, export folder or hf://owner/name, whose best weights are used."""
    texts: Texts = field(default_factory=list)
    """Texts, as what follows the run is unless it names files, and what follows -- in any case."""
    input: Name | Names | None = None
    """Files, globs or folders with one text per row, local or remote (s3://, gs://, …): .csv, .tsv, .jsonl, .json,
    .parquet, or .txt with one text a line; in a folder, each .txt file is a text. - is standard input, whose
    lines are texts unless --source.format says otherwise."""

    @staticmethod
    def name_key(words: Sequence[str]) -> str:
        """Which key words are: ``input``, if they name files, else ``texts``. Raises ``ConfigError`` for both."""
        file_names = list(filter(names_file, words))
        if file_names and len(file_names) < len(words):
            raise ConfigError(f"texts: {file_names[0]!r} names a file, others are texts; give files, or texts, alone")
        return "input" if file_names else "texts"

    @property
    def inputs(self) -> Sequence[str]:
        """``input`` as a list."""
        if isinstance(self.input, str):
            return [self.input]
        return self.input or []


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadingConfig):
    """Predict texts given on the command line, or every row of files of any size."""

    output: LocalPath | None = None
    """File to write (.parquet, .csv or .jsonl): the input's columns, unchanged, and the predictions. null:
    NAME-predicted with the suffix of the input, in this folder."""
    overwrite: bool = False
    """Replace a file that holds something else."""
    engine: Engine = "auto"
    """torch, or ONNX Runtime (onnx; needs an export with that file); auto takes torch if it can be imported, else
    onnx."""
    precision: PredictionPrecision = "fp32"
    """Arithmetic of the recurrent layers: fp32, or bf16, which is faster where the device computes it natively."""
    processes: Processes | None = None
    """Processes on this machine, each with one thread on a CPU; null: one per core, and one for a CUDA device."""
    share: ShareText | None = None
    """i/n: one of n commands that write one output on a disk that all see, as tasks of a SLURM array do: it makes every
    n-th part, and share 0 waits for the others and puts the parts together (0/n to n-1/n, or 1/n to n/n)."""
    timeout_s: Wait = 3600.0
    """Longest wait for the next part; then the command fails, or a share makes the parts of others itself."""
    abstain: Annotated[float, Meta(gt=0, lt=1)] | None = None
    """Give no label to a text whose most probable class has less than this calibrated probability."""
    json: bool = False
    """Print one JSON object per text instead of a readable line."""
    rank: AtLeast1 | None = None
    """Write only so many rows, with an empty column for the label: those to label next, whose two most probable classes
    are closest, each text once."""

    def __post_init__(self) -> None:
        """Check what can be checked without a look at files."""
        super().__post_init__()
        if self.texts and self.output is not None:
            raise ConfigError("output: predictions of single texts are printed; give a file of texts to write a file")
        if self.output is not None and Path(self.output).suffix.lower() not in OUTPUT_SUFFIXES:
            raise ConfigError(f"output: {self.output}: unknown ending; use .parquet, .csv or .jsonl")
        self.executor(1)

    def executor(self, default_processes: int) -> ExecutorConfig:
        """The processes of this machine: ``default_processes`` unless a number is given."""
        return ExecutorConfig(workers=self.processes or default_processes, share=self.share, timeout_s=self.timeout_s)


def check_inputs(config: ReadingConfig) -> None:
    """Raise ``ConfigError`` unless either texts or files are given."""
    if bool(config.texts) == bool(config.inputs):
        run = config.run if os.path.isdir(config.run) else "runs/mine"
        raise ConfigError(f'texts, a file, or - for standard input follow the run, as in {run} "a fine film"')


def resolve_prediction(config: PredictConfig) -> PredictConfig:
    """Name the output of files; texts, and lines of standard input, have none. Raises ``ConfigError``."""
    check_inputs(config)
    are_lines = config.inputs == [STDIN] and config.source.format in ("auto", "txt")
    if config.inputs and not are_lines:
        if config.json:
            raise ConfigError("json: predictions of a file are written to a file; leave this out; -o new.jsonl is JSON")
        config = replace(config, output=config.output or default_output(config.inputs, config.source.format))
    is_of_files = config.output is not None and STDIN not in config.inputs
    if config.rank and not is_of_files:
        raise ConfigError("rank: chooses among the rows of files; name files, and with -o the one to write")
    if config.share and (config.overwrite or not is_of_files):
        raise ConfigError("share: needs files and a new file, without --overwrite; name it with --output")
    return config


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(ReadingConfig):
    """Show what each word of a text adds to the logit of a class, by integrated gradients.

    Texts are given on the command line, by - on standard input, one a line, or as the rows of a file.
    """

    rows: AtLeast1 | None = None
    """Explain only this many texts; null: all."""
    label: str | None = None
    """Class to explain; null: the one predicted for each text."""
    json: bool = False
    """Print one JSON object per text instead of words with scores."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a run's model into a folder for others: weights, text pipeline, ONNX, a model card."""

    SUBJECT = ("run",)
    run: LocalPath
    """Run directory or bundle."""
    output: LocalPath
    """Folder to write, which must not be there yet."""
    onnx: bool = False
    """Write the network for ONNX Runtime too, and compare its results with torch's."""
    int8: bool = False
    """With onnx: round that network's weights to 8 bits after the comparison."""
    license: Name = "unknown"
    """Licence of the model, by its name on the hub, as in cc-by-4.0; the owners of the texts must allow it."""
    quiet: bool = False
    """Print errors only."""

    def __post_init__(self) -> None:
        """Check that nothing would be overwritten."""
        if self.int8 and not self.onnx:
            raise ConfigError("int8: rounds the weights of the ONNX network; add --onnx")
        refuse_inside("output", Path(self.output))
        if os.path.lexists(self.output):
            raise ConfigError(f"output: {self.output} is there already; name another folder, or remove it")
