# SPDX-License-Identifier: Apache-2.0
"""A job script from strings: ``#SBATCH`` lines, variables, then the shell files beside this one. Pure functions."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.slurm.config import NAMED, Resources, SubmitConfig, shell_words
from preprocessing.base.terminal import plain_line

HERE = Path(__file__).parent
Body = Literal["preprocess", "train", "single"]
SIGNALS: dict[Body, str] = {"preprocess": "B:TERM@60", "train": "B:USR2@120", "single": "B:TERM@60"}
"""What a job is sent before its time limit, and how many seconds before."""
PLAIN = re.compile(r"[\w@%+:,./=&|*()\[\]!~^<>;$?-]+")
"""What SLURM reads as it stands in an ``#SBATCH`` line: no blank, quote, backslash or #."""
WIDTH = 118
TASK = "${SLURM_ARRAY_TASK_ID:-}"
LITERAL = "# shellcheck disable=SC2016 # values mean what they are"
HEAD = """\
#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# padless {command} on SLURM. Written by: python -m harness submit
# Change what you like, and submit it with sbatch from the folder that its paths start from; options after its name go
# to the command. Submitted again, it goes on.
"""


@dataclass(frozen=True)
class Task:
    """One training of an array."""

    run: str
    arguments: tuple[str, ...]
    """What it has beside the arguments of all."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One script, in plain values."""

    command: str
    """Command of padless, which names the job too."""
    body: Body
    arguments: tuple[str, ...]
    run: str = ""
    """Run directory of a training, or where a dataset is built; empty: on no disk of this machine."""
    tasks: tuple[Task, ...] = ()
    resources: Resources
    config: SubmitConfig

    @property
    def name(self) -> str:
        """Of the job."""
        return f"{self.config.name}-{self.command}"

    @property
    def log(self) -> str:
        """Name of the log as SLURM fills it in."""
        name = f"%x-{'%A_%a' if self.tasks else '%j'}.log"
        return name if self.config.logs == "." else f"{self.config.logs.rstrip('/')}/{name}"


def render(job: Job) -> str:
    """The whole script."""
    parts = [HEAD.format(command=job.command) + directives(job), variables(job)]
    parts += [(HERE / f"{name}.sh").read_text(encoding="utf-8") for name in ("start", job.body)]
    return "\n".join(parts)


def directives(job: Job) -> str:
    """The ``#SBATCH`` lines, one for each option."""
    asked = {option: getattr(job.resources, key) for key, option in NAMED.items()}
    lines: list[tuple[str, str | int | None]] = [("job-name", job.name)]
    for option, value in asked.items():
        if value is not None and (option, str(value)) != ("gpus-per-node", "0"):
            lines.append((option, value))
    lines += [("ntasks-per-node", 1)]
    if job.tasks:
        limit = f"%{job.config.array.at_once}" if job.config.array.at_once else ""
        lines.append(("array", f"0-{len(job.tasks) - 1}{limit}"))
    lines.append(("output", job.log))
    if job.config.mail:
        lines += [("mail-user", job.config.mail), ("mail-type", job.config.mail_type)]
    lines += [
        ("open-mode", "append"),
        ("requeue" if job.config.restarts else "no-requeue", None),
        ("signal", SIGNALS[job.body]),
    ]
    lines += job.resources.further()
    return "".join(f"#SBATCH {directive(name, value)}\n" for name, value in lines)


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
    lines = [] if job.body == "preprocess" else [f"command={shlex.quote(job.command)}"]
    lines += [
        array("python", python),
        f"hook={hook and shlex.quote(hook)}",
        f"max_restarts={config.restarts} # of this job, by itself or by SLURM",
    ]
    if job.body == "preprocess":
        lines += [f"output={shlex.quote(job.run)}", f"logs={shlex.quote(config.logs)}"]
    if job.body == "train":
        lines.append(f"per_node={config.processes or 0} # processes of each node; 0: one for each GPU, or one")
        lines.append(f"run={shlex.quote(job.run)}")
    for text in (array("arguments", job.arguments), *([cases(job.tasks)] if job.tasks else [])):
        lines += [*([LITERAL] if {"$", "`"} & set(text.replace(TASK, "")) else []), text]
    lines.append('set -- "${arguments[@]}" "$@"')
    return "\n".join(lines) + "\n"


def hook_of(config: SubmitConfig) -> str:
    """The path of the hook, which is none on the PATH; empty without one."""
    hook = config.hook or ""
    return hook if not hook or "/" in hook else f"./{hook}"


def cases(tasks: Sequence[Task]) -> str:
    """Which task of the array trains what, and where."""
    lines = [f'case "{TASK}" in # a run directory for each task of the array']
    for number, task in enumerate(tasks):
        words = " ".join(map(shlex.quote, task.arguments))
        lines.append(f"    {number}) run={shlex.quote(task.run)} arguments+=({words}) ;;")
    lines += ['    *) echo "error: no such task in this array" >&2 && exit 2 ;;', "esac"]
    return "\n".join(lines)


def array(name: str, words: Sequence[str]) -> str:
    """``name=(…)``; a long one has a line for each option with its values."""
    quoted = [shlex.quote(word) for word in words]
    line = f"{name}=({' '.join(quoted)})"
    if len(line) <= WIDTH:
        return line
    groups: list[list[str]] = []
    for word in quoted:
        if not groups or word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return "\n".join([f"{name}=(", *(f"    {' '.join(group)}" for group in groups), ")"])


def summary(job: Job) -> str:
    """What one job asks of the site, and where it writes."""
    asked = {key: getattr(job.resources, key) for key in NAMED}
    said = [f"{key} {value}" for key, value in asked.items() if value is not None]
    said += [directive(name, value) for name, value in job.resources.further()]
    run = f", for {job.tasks[0].run} to {job.tasks[-1].run}" if job.tasks else f", for {job.run}" if job.run else ""
    return plain_line(f"{job.command}: {', '.join(said)}{run}; log {job.log}")
