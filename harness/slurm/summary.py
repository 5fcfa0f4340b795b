# SPDX-License-Identifier: Apache-2.0
"""What jobs ask of a site, in words. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from harness.slurm.script import Job, directive


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
    return shown(" ".join(sentences))


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


def counted(number: int | None, noun: str) -> str:
    """``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def log_of(job: Job) -> str:
    """The name of a job's log, with words for numbers."""
    name = job.log.replace("%x", f"{job.name}-{job.command}")
    return name.replace("%A", "JOB").replace("%a", "TASK").replace("%j", "JOB")


def shown(text: str) -> str:
    """``text`` for a terminal: what would move its cursor is spelt out."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
