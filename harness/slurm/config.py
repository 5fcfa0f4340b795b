# SPDX-License-Identifier: Apache-2.0
"""The options of SLURM jobs. SLURM itself checks values; this module checks that each fits into a line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from msgspec import Meta

from preprocessing.base.errors import ConfigError
from preprocessing.config import Names

MAX_NUMBER = 10**6
Number = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
BREAKS = r"\0-\x1f\x7f-\x9f\u2028\u2029"
"""What could end a line of a script."""
Text = Annotated[str, Meta(pattern=rf"^(?=.*\S)[^{BREAKS}]+\Z", description="of one line")]
LogFolder = Annotated[
    str, Meta(pattern=rf"^(?=.*\S)[^{BREAKS}%\\]+\Z", description="of one line without % and \\, which SLURM replaces")
]
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

    account: Text | None = None
    """Account that pays."""
    partition: Text | None = None
    """Partition (queue), or several with commas between."""
    gpus: int | Text | None = None
    """GPUs of each node, as in 4 or a100:4. Preprocessing requests only those of prepare.gpus."""
    nodes: Number | None = None
    """Nodes of preprocessing and training; 1 unless given. Other commands run on one."""
    cpus: Number | None = None
    """Cores of each node."""
    memory: Text | None = None
    """Memory of each node, as in 64G; 0 is all that it has."""
    time: Text | int | None = None
    """Time limit of each start, as in 30 (minutes), 12:00:00 or 2-00:00:00."""
    sbatch: Text | list[Text] | None = None
    """Further options of sbatch, as in "qos=long array=0-63%16", or a list of such texts."""

    def __post_init__(self) -> None:
        """Check that a shell can read the options of sbatch."""
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
        for word in split_shell_words("sbatch", text):
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
    hook: Text | None = None
    """A file of shell lines that every job reads first: module load, conda activate. Its first failing line ends the
    job."""
    python: Text | None = None
    """Python of the jobs, in one word or several, as in "apptainer exec image.sif python"; null: this one, or python
    where there is a hook."""
    restarts: Annotated[int, Meta(ge=0, le=MAX_NUMBER)] = 20
    """Most restarts of a job, by itself or by SLURM."""
    logs: LogFolder = "."
    """Folder of the jobs' logs, on storage that all nodes see."""
    print: bool = False
    """Print the scripts, and submit nothing."""

    def __post_init__(self) -> None:
        """Check that a shell can read the options of sbatch, and the words of Python."""
        super().__post_init__()
        split_shell_words("python", self.python or "")


def split_shell_words(key: str, text: str) -> Sequence[str]:
    """A text as a shell reads it. Raises ``ConfigError``."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r}: {error}; it is read as a shell reads it") from None
