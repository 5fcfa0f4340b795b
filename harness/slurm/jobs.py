# SPDX-License-Identifier: Apache-2.0
"""``python -m harness submit "COMMAND …" …``: job scripts for SLURM, printed, written or submitted in a chain.

Each command is read as its own program reads it, so that a mistake is said before any job waits in a queue.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.launch import doctor, launcher, many
from harness.launch.asked import LaunchRecipe, as_words, check_blanks, typed, without
from harness.ranks import devices
from harness.slurm.config import Resources, SubmitConfig, python_words, site_lines
from harness.slurm.script import Body, Job, Task, paragraph, render
from preprocessing.base import atomic, cli
from preprocessing.base.cli import Command, Words, read
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig

MOST_TASKS = 1000
LIMIT_S = 60
"""Longest wait for an answer of SLURM."""
AFTER = ("--kill-on-invalid-dep=yes",)
"""A job whose predecessor failed ends, in place of waiting for ever."""
SINGLE = (
    Command(name="evaluate", summary="", config="harness.inference.config:EvaluateConfig"),
    Command(
        name="predict",
        summary="",
        config="harness.inference.config:PredictConfig",
        words=Words(spelling='["text" …]', noun="text", takes="texts", least=0, most=None, texts=True),
    ),
    Command(
        name="report",
        summary="",
        config="harness.report.page:ReportConfig",
        words=Words(spelling="RUN [RUN …]", noun="run", takes="one run directory or several", most=None),
    ),
)
"""Commands of one process, as far as reading them goes."""
TRAINING = {"train": "launch", "doctor": "doctor"}
"""What starts on every node of a training's job."""
ALSO = {"launch": "train", "run": "preprocess"}
NAMES = ("preprocess", *TRAINING, *(one.name for one in SINGLE))


def main(config: SubmitConfig, commands: list[str]) -> None:
    """Say what is asked of the site, then print, write or submit."""
    jobs = jobs_of(config, commands)
    screen = Screen(errors=True)
    screen.say(paragraph(jobs))
    if config.print:
        if not Path(config.logs).is_dir():
            screen.say(f"Make the folder {config.logs} before you submit this: SLURM does not, and the job would fail.")
        print("\n".join(render(job) for job in jobs), end="")
    elif config.output is not None:
        write(jobs, Path(config.output))
    else:
        submit(jobs)


def write(jobs: list[Job], folder: Path) -> None:
    """Write the scripts, and print the commands that submit them.

    Raises ``ConfigError`` before anything is written if one was changed there, and ``StorageError``.
    """
    scripts = {folder / f"{place}-{job.command}.sbatch": render(job) for place, job in enumerate(jobs, 1)}
    for path, text in scripts.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            raise ConfigError(f"{path}: is there already and differs; move it away, or name another --output")
    make_folder(jobs[0].logs)
    for place, (path, text) in enumerate(scripts.items()):
        try:
            atomic.write_text(path, text)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror}); name another --output") from None
        before = f"--dependency=afterok:JOB {' '.join(AFTER)} " if place else ""
        print(f"sbatch {before}{shlex.quote(str(path))}")


def submit(jobs: list[Job]) -> None:
    """Submit each with the one before as its condition; none is left when one is refused. Raises ``ConfigError``."""
    submitted: list[str] = []
    for job in jobs:
        make_folder(job.logs)
        condition = [f"--dependency=afterok:{submitted[-1]}", *AFTER] if submitted else []
        try:
            submitted.append(sbatch(render(job), condition))
        except ConfigError as error:
            if submitted:
                ask(["scancel", *submitted], "")
                raise ConfigError(f"{error}; cancelled: {', '.join(submitted)}, submitted before it") from None
            raise
        tasks = f", {len(job.tasks)} tasks" if job.tasks else ""
        print(f"job {submitted[-1]}: {job.command}{tasks}", flush=True)


def jobs_of(config: SubmitConfig, commands: Sequence[str]) -> list[Job]:
    """The jobs of a command line, in their order. Raises ``ConfigError``, also for what a command would refuse."""
    split = [words_of(command) for command in commands]
    trainings = [words for words in split if words[0] == "train"]
    if config.array.asked and len(trainings) != 1:
        raise ConfigError(f"array: it is one of trainings, and there are {len(trainings)} among the commands; name one")
    return [job_of(config, words) for words in split]


def words_of(command: str) -> list[str]:
    """A command and its options. Raises ``ConfigError`` for one that no job runs, with the nearest."""
    try:
        name, *rest = shlex.split(command) or [""]
    except ValueError as error:
        raise ConfigError(f"{command!r}: {error}; a command and its options stand in one pair of quotes") from None
    name = ALSO.get(name, name)
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise ConfigError(f"{name!r}: no command that runs as a job; {hint}")
    return [name, *rest]


def job_of(config: SubmitConfig, words: Sequence[str]) -> Job:
    """One job."""
    name, *arguments = words
    try:
        body, own = checked(config, name, arguments)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    hook = config.hook if config.hook is None or "/" in config.hook else f"./{config.hook}"  # not one on the PATH
    if hook and not os.path.isfile(hook):
        raise ConfigError(f"hook: {hook}: no such file; it holds the shell lines that every job reads first")
    python = python_words(config.python) or ["python" if hook else sys.executable]
    keys = ("restarts", "name", "logs", "mail", "mail_type")
    return Job(
        command=name,
        body=body,
        resources=resources_of(config, body),
        hook=hook,
        python=tuple(python),
        lines=tuple(site_lines(config.sbatch)),
        **{key: getattr(config, key) for key in keys},
        **{"arguments": tuple(arguments), **own},
    )


def checked(config: SubmitConfig, name: str, arguments: list[str]) -> tuple[Body, dict[str, Any]]:
    """Which script a command runs in, and what sets the job apart. Raises ``ConfigError`` as the command would."""
    if name == "preprocess":
        asked = cli.parse(PreprocessConfig, arguments, prog="python -m preprocessing run")
        built_in = asked.staging or asked.output
        return "preprocess", {"run": "" if "://" in built_in else built_in}
    if name in TRAINING:
        return "train", training_of(config, name, arguments)
    read(next(one for one in SINGLE if one.name == name), arguments, f"python -m harness {name}")
    return "single", {}


def resources_of(config: SubmitConfig, body: Body) -> Resources:
    """What a job asks for: its own keys before those of all."""
    own: Resources = getattr(config, body)
    asked = own.over(config)
    if body == "preprocess":
        return replace(asked, gpus=own.gpus, gres=own.gres, nodes=asked.nodes or 1)
    return replace(asked, nodes=1 if body == "single" else asked.nodes or 1)


def training_of(config: SubmitConfig, name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What the job of a training has beside others. Raises ``ConfigError``."""
    keys = list(arguments)
    for word in keys:
        if word.startswith("--") and word[2:].partition("=")[0] in devices.LAUNCHER_OPTIONS:
            raise ConfigError(
                f"{word}: the job gives accelerate launch its options; --nodes and --processes say how many"
            )
    if name == "doctor":
        asked: LaunchRecipe = cli.parse(doctor.DoctorConfig, keys, prog=doctor.PROG)
    else:
        check_blanks(keys)
        asked = cli.parse(LaunchRecipe, keys, prog=launcher.PROG)
    found = {"run": asked.run, "processes": config.processes, "arguments": tuple(keys)}
    if name == "train" and config.array.asked:
        found |= {"tasks": tasks_of(config, keys, asked), "at_once": config.array.at_once}
    return found


def tasks_of(config: SubmitConfig, keys: list[str], asked: LaunchRecipe) -> tuple[Task, ...]:
    """The trainings of an array, each read as its job will read it. Raises ``ConfigError``."""
    if asked.seeds is not None or asked.folds is not None:
        raise ConfigError("--seeds and --folds train one after the other; leave them out, or the array")
    if config.array.seeds is not None:
        if "seed" in {key for key, _ in typed(keys, LaunchRecipe)}:
            raise ConfigError("--seed: --array.seeds names every one already; leave --seed out")
        every = replace(asked, seeds=config.array.seeds)
        each = [many.keys_of(one, every) for one in many.planned(every)]
        return tuple(Task(own["run"], tuple(as_words(without_run(own)))) for own in each)
    tasks: list[Task] = []
    for number, line in option_lines(config.array.options or ""):
        where = f"array.options: {config.array.options}: line {number}"
        try:
            words = shlex.split(line)
            if without(words, LaunchRecipe, {"run"}) != words:
                raise ConfigError("each training has a directory of its own; leave --run out")
            cli.parse(LaunchRecipe, [*keys, *words], prog=launcher.PROG)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from None
        tasks.append(Task(str(Path(asked.run, f"task-{len(tasks)}")), tuple(words)))
    if not 1 <= len(tasks) <= MOST_TASKS:
        raise ConfigError(
            f"array.options: {config.array.options}: {len(tasks)} tasks; expected 1 to {MOST_TASKS} lines of options"
        )
    return tuple(tasks)


def without_run(own: dict[str, Any]) -> dict[str, Any]:
    """The keys of a training but its directory, which the script itself names."""
    return {key: value for key, value in own.items() if key != "run"}


def option_lines(path: str) -> list[tuple[int, str]]:
    """Number and text of every line that is neither empty nor a comment. Raises ``ConfigError``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"array.options: {path}: cannot be read ({error}); name a file of options") from None
    lines = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def sbatch(script: str, condition: list[str]) -> str:
    """Submit a script; the job's number. Raises ``ConfigError`` with what SLURM said."""
    result = ask(["sbatch", "--parsable", *condition], script)
    number = result.stdout.strip().partition(";")[0]
    if result.returncode or not re.fullmatch(r"\d+", number):
        said = " ".join(result.stderr.replace("sbatch: error: ", "").split()) or f"exit code {result.returncode}"
        raise ConfigError(f"sbatch refused the job: {said}")
    return number


def ask(command: list[str], text: str) -> subprocess.CompletedProcess[str]:
    """One command of SLURM. Raises ``ConfigError`` where there is none, or no answer."""
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: not found here; submit on a machine of the cluster, or --print") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]}: no answer in {LIMIT_S} s; is the controller up? scontrol ping says") from None


def make_folder(path: str) -> None:
    """Make the folder of the logs, which SLURM does not. Raises ``StorageError``."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"logs: {path}: cannot be made ({error.strerror}); name another folder") from None
