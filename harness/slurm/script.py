# SPDX-License-Identifier: Apache-2.0
"""A job script from strings: ``#SBATCH`` lines, variables, then the shell files of this folder. Pure functions."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.slurm.config import NAMED, Resources, SubmitConfig, shell_words
from preprocessing.base.terminal import plain_line

HERE = Path(__file__).parent
Task = tuple[str, tuple[str, ...]]
"""One training of an array: its run directory, and its own arguments in addition to the common ones."""
SIGNALS = {"prepare": "B:TERM@60", "train": "B:USR2@120", "single": "B:TERM@60"}
"""The signal that a job gets before its time limit, and how many seconds before."""
PLAIN = re.compile(r"[\w@%+:,./=&|*()\[\]!~^<>;$?-]+")
"""What SLURM reads as it stands in an ``#SBATCH`` line: no blank, quote, backslash or #."""
WIDTH = 118
TASK = "${SLURM_ARRAY_TASK_ID:-}"
LITERAL = "# shellcheck disable=SC2016 # values mean what they are"
HEAD = """\
#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# padless {command} on SLURM. Written by: padless submit
# Change what you like, and submit it with sbatch from the folder that its paths start from; options after its name go
# to the command. Submitted again, it goes on.
"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One script, in plain values."""

    command: str
    """Command of padless, which names the job too."""
    body: str
    """``prepare``, ``train`` or ``single``: the shell file."""
    arguments: tuple[str, ...]
    run: str = ""
    """Run directory of a training, or where a dataset is built; empty: on no disk of this machine."""
    tasks: tuple[Task, ...] = ()
    parts: int = 0
    """Tasks that share the work, of which the first leads; 0: the job is no such array."""
    data: str = ""
    """The dataset that it reads."""
    resources: Resources
    config: SubmitConfig

    @property
    def size(self) -> int:
        """Tasks of the array; 0: none."""
        return len(self.tasks) or self.parts

    @property
    def end(self) -> str:
        """What follows the number of its job where another job waits for it: the task that leads."""
        return "_0" if self.parts else ""

    @property
    def log(self) -> str:
        """Name of the log as SLURM fills it in."""
        name = f"%x-{'%A_%a' if self.size else '%j'}.log"
        return name if self.config.logs == "." else f"{self.config.logs.rstrip('/')}/{name}"


def render(job: Job) -> str:
    """The whole script."""
    parts = [HEAD.format(command=job.command) + directives(job), variables(job)]
    parts += [(HERE / f"{name}.sh").read_text(encoding="utf-8") for name in ("start", job.body)]
    return "\n".join(parts)


def directives(job: Job) -> str:
    """The ``#SBATCH`` lines, one for each option."""
    config, asked = job.config, {option: getattr(job.resources, key) for key, option in NAMED.items()}
    if str(asked["gpus-per-node"]) == "0":
        del asked["gpus-per-node"]
    lines: dict[str, str | int | None] = {
        "job-name": f"{config.name}-{job.command}",
        **{option: value for option, value in asked.items() if value is not None},
        "ntasks-per-node": 1,
    }
    if job.size:
        lines["array"] = f"0-{job.size - 1}" + (f"%{config.array.at_once}" if config.array.at_once else "")
    lines["output"] = job.log
    lines |= {"open-mode": "append", "requeue" if config.restarts else "no-requeue": None, "signal": SIGNALS[job.body]}
    both = [*lines.items(), *job.resources.further()]
    return "".join(f"#SBATCH {directive(name, value)}\n" for name, value in both)


def directive(name: str, value: str | int | None) -> str:
    """One option, its value quoted as SLURM reads quotes where it has to be."""
    if value is None:
        return f"--{name}"
    text = str(value)
    if not PLAIN.fullmatch(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    return f"--{name}={text}"


def variables(job: Job) -> str:
    """What the shell files read, each value quoted for the shell."""
    config, hook = job.config, hook_of(job.config)
    python = shell_words("python", config.python or ("python" if hook else shlex.quote(sys.executable)))
    lines = [] if job.body == "prepare" else [f"command={shlex.quote(job.command)}"]
    lines += [
        array("python", python),
        f"hook={hook and shlex.quote(hook)}",
        f"max_restarts={config.restarts} # of this job, by itself or by SLURM",
    ]
    if job.body == "prepare":
        lines.append(f"output={shlex.quote(job.run)}")
    if job.body == "train":
        lines.append(f"per_node={config.processes or 0} # processes of each node; 0: one for each GPU, or one")
        lines.append(f"run={shlex.quote(job.run)}")
    for text in (array("arguments", job.arguments), *([cases(job.tasks)] if job.tasks else [])):
        lines += [*([LITERAL] if {"$", "`"} & set(text.replace(TASK, "")) else []), text]
    lines.append('set -- "${arguments[@]}" "$@"')
    return "\n".join(lines) + "\n"


def hook_of(config: SubmitConfig) -> str:
    """The path of the hook, which is never searched on the PATH; empty without one."""
    hook = config.hook or ""
    return hook if not hook or "/" in hook else f"./{hook}"


def cases(tasks: Sequence[Task]) -> str:
    """Run directory and arguments of each task of the array."""
    lines = [f'case "{TASK}" in # a run directory for each task of the array']
    for number, (run, arguments) in enumerate(tasks):
        lines.append(f"    {number}) run={shlex.quote(run)} arguments+=({shlex.join(arguments)}) ;;")
    lines += ['    *) echo "error: no such task in this array" >&2 && exit 2 ;;', "esac"]
    return "\n".join(lines)


def array(name: str, words: Sequence[str]) -> str:
    """``name=(…)``; a long one has a line for each option with its values."""
    line = f"{name}=({shlex.join(words)})"
    if len(line) <= WIDTH:
        return line
    lines: list[str] = []
    for word in map(shlex.quote, words):
        if lines and not word.startswith("--"):
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return "\n".join([f"{name}=(", *lines, ")"])


def summary(job: Job) -> str:
    """What one job requests, and where it writes."""
    asked = {key: getattr(job.resources, key) for key in NAMED}
    said = [f"{key} {value}" for key, value in asked.items() if value is not None]
    said += [directive(name, value) for name, value in job.resources.further()]
    run = f", for {job.run}" if job.run else ""
    return plain_line(f"{job.command}: {', '.join(said)}{run}; log {job.log}")
