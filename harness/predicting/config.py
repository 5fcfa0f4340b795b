# SPDX-License-Identifier: Apache-2.0
"""What can be asked of predictions; importing this brings no torch, so that ``--help`` does not wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.config import require
from harness.inference.pieces import own_words
from harness.inference.scorers import Engine
from harness.rundir.training_facts import DIALECT
from preprocessing.base.errors import ConfigError, check_processes, check_wait
from preprocessing.config import MOST_PART_MB, ExecutorConfig, SourceConfig

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files of texts are read, where that is not as the corpus of the training was read."""

    column: str | None = field(default=None, metadata={"also": ("text_column", "source.text_column")})
    """Column of the input that holds the text; null: the one of the corpus of the training, or text."""
    encoding: str | None = field(default=None, metadata={"also": ("source.encoding",)})
    """How text is written: utf-8, latin-1, utf-16, cp1251, …; auto: UTF-8 unless it looks like another; null: as the
    training was told, or auto."""
    delimiter: str | None = field(default=None, metadata={"also": ("source.delimiter",)})
    """CSV: between fields; null: as in the corpus of the training, or what divides every line into as many fields."""
    quote: str | None = field(default=None, metadata={"also": ("source.quote",)})
    """CSV: around fields that hold delimiters or line ends, an empty string for nothing; null: as in the corpus of the
    training, or a double quote."""
    escape: str | None = field(default=None, metadata={"also": ("source.escape",)})
    """CSV: the character that makes the next one literal; null: as in the corpus of the training."""

    def __post_init__(self) -> None:
        """Check that there is such an encoding, and such characters."""
        with own_words():
            self.source(())

    def source(self, path: Sequence[str]) -> SourceConfig:
        """These options as preprocessing calls them."""
        given = {name: getattr(self, name) for name in ("encoding", *DIALECT) if getattr(self, name) is not None}
        return SourceConfig(path=list(path) or [STDIN], **given)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadingConfig):
    """Predict texts given on the command line, or every row of files of any size."""

    run: str
    """Run directory, bundle, export folder or hf://owner/name, whose best weights predict."""
    input: str | list[str] | None = None
    """Files, globs or folders with one text a row, here or remote (s3://, gs://, …): .csv, .tsv, .jsonl, .parquet, or
    .txt with one text a line; of a folder that holds nothing but .txt files, each is a text. - is standard input."""
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "txt"] = "auto"
    """What the input is; auto takes it from the name, and standard input for one text a line."""
    missing: Literal["error", "keep"] = "error"
    """Rows without a text: refused before anything is predicted, or predicted as an empty text."""
    output: str | None = None
    """File to write (.parquet, .csv, .tsv or .jsonl), or a folder of parts (NAME/); the input's columns, unchanged, and
    the predictions."""
    output_format: Literal["auto", "parquet", "csv", "tsv", "jsonl"] = "auto"
    """What the output is; auto takes it from the name, and parquet for a folder."""
    prefix: str = ""
    """Stands before the names of the new columns, where the input has a column predicted already."""
    overwrite: bool = False
    """Begin anew where another prediction was begun, or replace a folder of parts, or a file of something else."""
    engine: Engine = "auto"
    """What computes: torch; onnx or onnx-int8, ONNX Runtime, of an export that has that form; auto takes torch where it
    can be imported, else onnx."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes a CUDA device if there is one."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """What the recurrent layers compute in; auto: bf16 where the device computes it natively."""
    processes: int | None = field(default=None, metadata={"also": ("workers", "executor.workers")})
    """Processes on this machine, each with one thread on a CPU; null: one per core, and one for a CUDA device."""
    executor: Literal["local", "dask"] = field(default="local", metadata={"also": ("executor.kind",)})
    """local: processes on this machine; dask: the workers of a running scheduler, which see the same files."""
    scheduler: str | None = field(default=None, metadata={"also": ("executor.scheduler",)})
    """Dask: address of the scheduler (tcp://host:8786) or the path of its scheduler file."""
    timeout_s: float = field(default=86_400.0, metadata={"also": ("executor.timeout_s",)})
    """Longest wait for the next part, and of one rank for the others."""
    part_mb: float = field(default=8.0, metadata={"also": ("source.part_mb",)})
    """Megabytes of text per part: what one process predicts at a time, and what an interruption can lose."""
    batch: int = 1024
    """Most rows computed at once; long texts are fewer."""
    json: bool = False
    """Print one JSON object a text instead of a line to read."""
    quiet: bool = False
    """Print neither progress nor how many rows were predicted."""

    def __post_init__(self) -> None:
        """Check ranges and that input and output come together."""
        super().__post_init__()
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(0 < self.part_mb <= MOST_PART_MB, "part_mb", self.part_mb, f"above 0, at most {MOST_PART_MB:,}")
        check_processes("processes", self.processes)
        check_wait("timeout_s", self.timeout_s)
        require(all(self.inputs), "input", self.input, "names that are not empty")
        require(self.output != "", "output", self.output, "the name of a file or a folder")
        if (self.input is None) != (self.output is None) and self.inputs != [STDIN]:
            raise ConfigError("--input and --output go together: name the file to read and the file to write")
        if self.output is None and self.output_format != "auto":
            raise ConfigError("--output_format says what --output is; name one, or leave this out")
        self.workers()

    @property
    def inputs(self) -> list[str]:
        """Every input that was named."""
        return [] if self.input is None else [self.input] if isinstance(self.input, str) else list(self.input)

    def workers(self, default: int | None = None) -> ExecutorConfig:
        """Who predicts; ``default`` local processes where none are asked for."""
        workers = self.processes or (default if self.executor == "local" else None)
        return ExecutorConfig(kind=self.executor, workers=workers, scheduler=self.scheduler, timeout_s=self.timeout_s)
