# SPDX-License-Identifier: Apache-2.0
"""A job script from strings: ``#SBATCH`` lines, variables, then the shell files beside this one; and in words what the
jobs ask of a site. Pure functions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.slurm.config import Resources
from preprocessing.base.terminal import counted, plain_line

HERE = Path(__file__).parent
Body = Literal["preprocess", "train", "single"]
SIGNALS: dict[Body, str] = {"preprocess": "B:TERM@60", "train": "B:USR2@120", "single": "B:TERM@60"}
"""What a job is sent before its time limit, and how many seconds before."""
PLAIN = re.compile(r"[\w@%+:,./=&|*()\[\]!~^<>;$?-]+")
"""What SLURM reads as it stands in an ``#SBATCH`` line: no blank, quote, backslash or #."""
NAMED = (
    ("account", "account"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("constraint", "constraint"),
    ("nodes", "nodes"),
    ("gpus", "gpus-per-node"),
    ("gres", "gres"),
    ("cpus", "cpus-per-task"),
    ("memory", "mem"),
    ("time", "time"),
)
"""Key of ``Resources`` -> option of sbatch, in the order of their lines."""
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
    at_once: int | None = None
    resources: Resources
    processes: int | None = None
    hook: str | None = None
    python: tuple[str, ...]
    restarts: int
    name: str
    logs: str
    mail: str | None = None
    mail_type: str = ""
    lines: tuple[tuple[str, str | None], ...] = ()
    """Further options of sbatch."""

    @property
    def log(self) -> str:
        """Name of the log as SLURM fills it in."""
        name = f"%x-{'%A_%a' if self.tasks else '%j'}.log"
        return name if self.logs == "." else f"{self.logs.rstrip('/')}/{name}"


def render(job: Job) -> str:
    """The whole script."""
    parts = [HEAD.format(command=job.command) + directives(job), variables(job)]
    parts += [(HERE / f"{name}.sh").read_text(encoding="utf-8") for name in ("start", job.body)]
    return "\n".join(parts)


def directives(job: Job) -> str:
    """The ``#SBATCH`` lines, one for each option."""
    lines: list[tuple[str, str | int | None]] = [("job-name", f"{job.name}-{job.command}")]
    for key, option in NAMED:
        value = getattr(job.resources, key)
        if value is not None and not (key == "gpus" and value == 0):
            lines.append((option, value))
    lines += [("ntasks-per-node", 1)]
    if job.tasks:
        limit = f"%{job.at_once}" if job.at_once else ""
        lines.append(("array", f"0-{len(job.tasks) - 1}{limit}"))
    lines.append(("output", job.log))
    if job.mail:
        lines += [("mail-user", job.mail), ("mail-type", job.mail_type)]
    lines += [
        ("open-mode", "append"),
        ("requeue" if job.restarts else "no-requeue", None),
        ("signal", SIGNALS[job.body]),
    ]
    lines += job.lines
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
    lines = [] if job.body == "preprocess" else [f"command={shlex.quote(job.command)}"]
    lines += [
        array("python", job.python),
        f"hook={shlex.quote(job.hook) if job.hook else ''}",
        f"max_restarts={job.restarts} # of this job, by itself or by SLURM",
    ]
    if job.body == "preprocess":
        lines += [f"output={shlex.quote(job.run)}", f"logs={shlex.quote(job.logs)}"]
    if job.body == "train":
        lines.append(f"per_node={job.processes or 0} # processes of each node; 0: one for each GPU, or one")
        lines.append(f"run={shlex.quote(job.run)}")
    for text in (array("arguments", job.arguments), *([cases(job.tasks)] if job.tasks else [])):
        lines += [*([LITERAL] if {"$", "`"} & set(text.replace(TASK, "")) else []), text]
    lines.append('set -- "${arguments[@]}" "$@"')
    return "\n".join(lines) + "\n"


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


def paragraph(jobs: Sequence[Job]) -> str:
    """All that the site is asked for, and what happens to the jobs there."""
    sentences = [sentence(job, place, len(jobs)) for place, job in enumerate(jobs)]
    first = jobs[0]
    if first.restarts:
        sentences.append(
            f"A job is started again at most {first.restarts} times, after a preemption or a lost node; preprocessing "
            "and training also after the time limit, training after a lost process."
        )
    else:
        sentences.append("No job is started again.")
    if first.hook:
        sentences.append(f"Each reads {first.hook} first.")
    sentences.append(f"Each runs {' '.join(map(shlex.quote, first.python))}.")
    if first.lines:
        lines = ", ".join(directive(name, value) for name, value in first.lines)
        sentences.append(f"Your own lines: {lines}.")
    if first.mail:
        sentences.append(f"SLURM writes to {first.mail} ({first.mail_type}).")
    sentences.append(f"Logs: {', '.join(log_of(job) for job in jobs)}.")
    return plain_line(" ".join(sentences))


def sentence(job: Job, place: int, total: int) -> str:
    """What one job asks for."""
    asked = job.resources
    each = [counted(asked.gpus, "GPU")] if asked.gpus else []
    each += [asked.gres] if asked.gres else []
    each += [counted(asked.cpus, "core")] if asked.cpus else []
    each += [f"{asked.memory} of memory" if asked.memory != "0" else "all memory"] if asked.memory else []
    nodes = counted(asked.nodes or 1, "node")
    parts = [f"{nodes} with {listed(each)}{' each' if (asked.nodes or 1) > 1 else ''}" if each else nodes]
    parts += [f"of partition {asked.partition}"] if asked.partition else []
    parts += [f"with feature {asked.constraint}"] if asked.constraint else []
    parts += [f"on account {asked.account}"] if asked.account else []
    parts += [f"in qos {asked.qos}"] if asked.qos else []
    parts += [f"for at most {limit(str(asked.time))}"] if asked.time else ["for as long as the site gives by itself"]
    what = f"{job.command} asks for {' '.join(parts)}"
    if job.tasks:
        what += f", {len(job.tasks)} times"
        what += f" and {job.at_once} at once" if job.at_once else ""
        what += f", into {job.tasks[0].run} to {job.tasks[-1].run}"
    elif job.body == "train":
        what += f", for {job.run}"
    if place:
        what += ", once the job before it has ended well"
    return f"{what}." if total == 1 else f"{place + 1} of {total}: {what}."


def limit(text: str) -> str:
    """A time limit; a bare number counts minutes."""
    return f"{text} minutes" if text.isdecimal() else text


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def log_of(job: Job) -> str:
    """The name of a job's log, with words for numbers."""
    name = job.log.replace("%x", f"{job.name}-{job.command}")
    return name.replace("%A", "JOB").replace("%a", "TASK").replace("%j", "JOB")
