# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a cluster; every value is checked here, so that a script is made of harmless strings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import ClassVar

from harness.launch.asked import seeds_of
from preprocessing.base.errors import ConfigError, require

TIME = re.compile(r"(\d+-)?\d+(:[0-5]?\d){0,2}|UNLIMITED|INFINITE")
MEMORY = re.compile(r"\d+[KMGT]?")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
LINE = re.compile(r"(?:--)?([a-z][a-z0-9-]*)(?:=(.*))?", re.DOTALL)
OWNED = {
    **dict.fromkeys(("array", "job-name", "output", "error"), "--array.seeds, --array.options, --name or --logs"),
    **dict.fromkeys(("mail-user", "mail-type"), "--mail and --mail_type"),
    **dict.fromkeys(("ntasks", "ntasks-per-node", "mincpus"), "--nodes, --cpus and --processes"),
    **dict.fromkeys(("dependency", "kill-on-invalid-dep"), "the order of the commands"),
    **dict.fromkeys(("requeue", "no-requeue", "open-mode"), "--restarts"),
    **dict.fromkeys(("parsable", "wrap", "wait", "test-only", "export-file"), "sbatch itself, for a script of --print"),
    **{"gpus-per-node": "--gpus", "cpus-per-task": "--cpus", "mem": "--memory"},
    **{name: f"--{name}" for name in ("account", "partition", "qos", "constraint", "gres", "nodes", "time")},
}
"""Options of sbatch that are written for other keys, and those."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job asks of the site; null leaves it to the site."""

    account: str | None = None
    """Account that pays."""
    partition: str | None = None
    """Partition (queue), or several with commas between."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that nodes must have, as in a100|h100."""
    gres: str | None = None
    """Generic resources of each node, as in gpu:a100:4; in place of gpus."""
    gpus: int | None = None
    """GPUs of each node. Preprocessing asks for none but those of preprocess.gpus or preprocess.gres."""
    nodes: int | None = None
    """Nodes of preprocessing and training; 1 unless given. Other commands run on one."""
    cpus: int | None = None
    """Cores of each node."""
    memory: str | None = None
    """Memory of each node, as in 64G; 0 is all that it has."""
    time: str | int | None = None
    """Time limit of each start, as in 30 (minutes), 12:00:00 or 2-00:00:00."""

    def __post_init__(self) -> None:
        """Check that each value is one that sbatch could take."""
        for key in ("account", "partition", "qos", "constraint", "gres"):
            check_text(key, getattr(self, key))
        for key, least in (("gpus", 0), ("nodes", 1), ("cpus", 1)):
            value = getattr(self, key)
            require(value is None or least <= value <= 10**6, key, value, f"a whole number from {least}")
        if self.time is not None:
            good = isinstance(self.time, str) and TIME.fullmatch(self.time) is not None
            forms = "minutes, hours:minutes:seconds or days-hours:minutes:seconds"
            require(good, "time", self.time, forms)
        if self.memory is not None:
            require(MEMORY.fullmatch(self.memory) is not None, "memory", self.memory, "a number and K, M, G or T")
        if self.gres is not None and self.gpus:
            raise ConfigError("gpus, gres: both say which GPUs a node has; give one of them")

    def over(self, general: Resources) -> Resources:
        """These, and what ``general`` asks for where they say nothing."""
        own = {one.name: getattr(self, one.name) for one in fields(Resources)}
        given = {key: value for key, value in own.items() if value is not None}
        if {"gpus", "gres"} & set(given):
            given = {"gpus": None, "gres": None, **given}
        return replace(general.alone, **given)

    @property
    def alone(self) -> Resources:
        """Without the keys of a subclass."""
        return Resources(**{one.name: getattr(self, one.name) for one in fields(Resources)})


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """Many trainings as one array of jobs, each with a run directory of its own."""

    seeds: str | None = None
    """A training for each seed, as in 0,1,2: in RUN/seed-0, RUN/seed-1, …, as launch --seeds has them."""
    options: str | None = None
    """A file with a line of options for each training, as in --optim.lr 0.01; in RUN/task-0, RUN/task-1, …"""
    at_once: int | None = None
    """So many of them at a time; null: as many as the site lets run."""

    def __post_init__(self) -> None:
        """Check that one thing is varied."""
        if self.seeds is not None and self.options is not None:
            raise ConfigError("array.seeds, array.options: one array varies one of the two; write seeds into the file")
        if self.at_once is not None:
            require(self.at_once >= 1, "array.at_once", self.at_once, "at least 1, or null")
            require(self.asked, "array.at_once", self.at_once, "array.seeds or array.options beside it")
        if self.seeds is not None:
            seeds_of(self.seeds)

    @property
    def asked(self) -> bool:
        """Whether the job is an array."""
        return self.seeds is not None or self.options is not None


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(Resources):
    """Submit preprocessing, training, evaluation to SLURM, each once the one before has ended well.

    Each JOB is a command in quotes with its own options: preprocess, train, doctor, evaluate, predict or report.
    Keys of the site may stand in a file, --config site.yaml. --print shows the scripts and submits nothing.
    """

    HINT: ClassVar[str] = " (a job's options stand in its quotes)"

    processes: int | None = None
    """Processes of each node in training; null: one per GPU, or one where there are none."""
    preprocess: Resources = field(default_factory=Resources)
    """What preprocessing asks for, where it differs."""
    train: Resources = field(default_factory=Resources)
    """What training and doctor ask for, where they differ."""
    single: Resources = field(default_factory=Resources)
    """What evaluate, predict and report ask for, where they differ."""
    array: ArrayConfig = field(default_factory=ArrayConfig)
    """Many trainings at once."""
    hook: str | None = None
    """A file of shell lines that every job reads first: module load, conda activate. Its first failing line ends the
    job."""
    python: str | None = None
    """Python of the jobs, in one word or several, as in "apptainer exec image.sif python"; null: this one, or python
    where there is a hook."""
    restarts: int = 20
    """A job is started again at most so often, by itself or by SLURM."""
    name: str = "padless"
    """Jobs are called NAME-COMMAND."""
    logs: str = "."
    """Folder of the jobs' logs, on storage that all nodes see."""
    mail: str | None = None
    """Address that SLURM writes to."""
    mail_type: str = "END,FAIL"
    """When it writes."""
    sbatch: str | list[str] = field(default_factory=list)
    """Further options of sbatch for every job, as in "reservation=week exclusive", or a list of such texts."""
    print: bool = False
    """Print the scripts, and submit nothing."""
    output: str | None = None
    """Write the scripts to this folder, and submit nothing."""

    def __post_init__(self) -> None:
        """Check ranges, and that nothing could end a line of a script."""
        super().__post_init__()
        require(self.processes is None or self.processes >= 1, "processes", self.processes, "at least 1, or null")
        require(0 <= self.restarts <= 10**6, "restarts", self.restarts, "a whole number from 0")
        require(NAME.fullmatch(self.name) is not None, "name", self.name, "letters, digits and _.+-")
        for key in ("hook", "mail", "mail_type", "logs"):
            check_text(key, getattr(self, key))
        for sign in "%\\":
            require(sign not in self.logs, "logs", self.logs, f"a folder without {sign}, which SLURM replaces")
        python_words(self.python)
        site_lines(self.sbatch)
        require(self.single.nodes in (None, 1), "single.nodes", self.single.nodes, "1: those commands run on one node")


def check_text(key: str, value: str | None) -> None:
    """Raise ``ConfigError`` for a text that is empty or holds what no line of a script may hold."""
    if value is not None:
        require(bool(value.strip()), key, value, "a text, or null")
        require(value.isprintable(), key, value, "a text of one line without control characters")


def python_words(text: str | None) -> list[str]:
    """The words of ``--python``, none where it was not given. Raises ``ConfigError``."""
    if text is None:
        return []
    words = shell_words("python", text)
    require(bool(words and words[0]), "python", text, "a program, with words before it where it needs them")
    return words


def shell_words(key: str, text: str) -> list[str]:
    """A text as a shell reads it. Raises ``ConfigError``."""
    check_text(key, text)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r}: {error}; it is read as a shell reads it") from None


def site_lines(texts: str | Sequence[str]) -> list[tuple[str, str | None]]:
    """Name and value of each option of sbatch. Raises ``ConfigError`` for what is none, and for what has a key."""
    found = []
    for word in chain(*(shell_words("sbatch", text) for text in ([texts] if isinstance(texts, str) else texts))):
        line = LINE.fullmatch(word)
        if line is None:
            raise ConfigError(f"sbatch: {word!r} is no long option of sbatch: expected name=value, or name alone")
        if (instead := OWNED.get(line[1])) is not None:
            raise ConfigError(f"sbatch: {line[1]} is written for another key: {instead}")
        found.append((line[1], line[2]))
    return found
