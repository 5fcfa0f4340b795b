# SPDX-License-Identifier: Apache-2.0
"""The options of SLURM jobs. SLURM itself checks values; this module checks that each fits into a line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from msgspec import Meta

from preprocessing.base.errors import ConfigError, require
from preprocessing.config import Names

MAX_NUMBER = 10**6
Number = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
OPTION_BY_KEY = {
    "account": "account",
    "partition": "partition",
    "nodes": "nodes",
    "gpus": "gpus-per-node",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "time": "time",
}
"""Key of ``Resources`` -> option of sbatch, in the order of their lines."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job requests; null: the site's default."""

    account: str | None = None
    """Account that pays."""
    partition: str | None = None
    """Partition (queue), or several with commas between."""
    gpus: int | str | None = None
    """GPUs of each node, as in 4 or a100:4. Preprocessing requests only those of prepare.gpus."""
    nodes: Number | None = None
    """Nodes of preprocessing and training; 1 unless given. Other commands run on one."""
    cpus: Number | None = None
    """Cores of each node."""
    memory: str | None = None
    """Memory of each node, as in 64G; 0 is all that it has."""
    time: str | int | None = None
    """Time limit of each start, as in 30 (minutes), 12:00:00 or 2-00:00:00."""
    sbatch: str | list[str] | None = None
    """Further options of sbatch, as in "qos=long array=0-63%16", or a list of such texts."""

    def __post_init__(self) -> None:
        """Check that nothing could end a line of a script."""
        for key in OPTION_BY_KEY:
            check_text(key, getattr(self, key))
        self.parse_options()

    def fill_from(self, general: Resources) -> Resources:
        """These, with the values of ``general`` where these are null."""
        values = {}
        for field_ in fields(Resources):
            value = getattr(self, field_.name)
            values[field_.name] = getattr(general, field_.name) if value is None else value
        return Resources(**values)

    def parse_options(self) -> list[tuple[str, str | None]]:
        """Name and value of each option in ``sbatch``, for sbatch to check. Raises ``ConfigError``."""
        text = self.sbatch if isinstance(self.sbatch, str) else " ".join(self.sbatch or [])
        options: list[tuple[str, str | None]] = []
        for word in split_shell_words("sbatch", text) if text else ():
            name, equals, value = word.removeprefix("--").partition("=")
            options.append((name, value if equals else None))
        return options


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(Resources):
    """Submit preprocessing, training, evaluation to SLURM, each to start after the one before succeeded.

    Each JOB is a command in quotes with its own options: prepare, train, evaluate, predict or report. Keys
    of the site may be in a file, --config site.yaml. --print shows the scripts and submits nothing.
    """

    SUBJECT = ("jobs",)
    HINT: ClassVar[str] = " (a job's options belong in its quotes)"

    jobs: Names
    """Commands with their options, each in quotes."""
    processes: Number | None = None
    """Processes of each node in training; null: one per GPU, or one where there are none."""
    prepare: Resources = field(default_factory=Resources)
    """What preprocessing requests, where it differs."""
    train: Resources = field(default_factory=Resources)
    """What training requests, where it differs."""
    single: Resources = field(default_factory=Resources)
    """What evaluate, predict and report request, where they differ."""
    hook: str | None = None
    """A file of shell lines that every job reads first: module load, conda activate. Its first failing line ends the
    job."""
    python: str | None = None
    """Python of the jobs, in one word or several, as in "apptainer exec image.sif python"; null: this one, or python
    where there is a hook."""
    restarts: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] = 20
    """Most restarts of a job, by itself or by SLURM."""
    logs: str = "."
    """Folder of the jobs' logs, on storage that all nodes see."""
    print: bool = False
    """Print the scripts, and submit nothing."""

    def __post_init__(self) -> None:
        """Check that nothing could end a line of a script."""
        super().__post_init__()
        for key in ("hook", "logs"):
            check_text(key, getattr(self, key))
        require(not {"%", "\\"} & {*self.logs}, "logs", self.logs, "a folder without % and \\, which SLURM replaces")
        if self.python is not None:
            split_shell_words("python", self.python)


def check_text(key: str, value: object) -> None:
    """Raise ``ConfigError`` for a text that is empty or holds what no line of a script may hold."""
    if isinstance(value, str):
        is_line = bool(value.strip()) and value.isprintable()
        require(is_line, key, value, "a text of one line without control characters, or null")


def split_shell_words(key: str, text: str) -> Sequence[str]:
    """A text as a shell reads it. Raises ``ConfigError``."""
    check_text(key, text)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r}: {error}; it is read as a shell reads it") from None
