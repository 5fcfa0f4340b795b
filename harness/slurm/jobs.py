# SPDX-License-Identifier: Apache-2.0
"""``padless submit "COMMAND …" …``: job scripts for SLURM, printed, written or submitted in a chain.

Each command is parsed as its own program does it, so that mistakes are reported before any job waits in a queue. A
script is made of strings by pure functions: ``#SBATCH`` lines, variables, then the shell files of this folder.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config import NOTHING, LaunchRecipe
from harness.launch.launcher import check_named, keys_of, planned
from harness.launch.options import OF_ACCELERATE
from harness.slurm.config import NAMED, Resources, SubmitConfig, shell_words
from preprocessing.base import atomic, cli
from preprocessing.base.atomic import storing
from preprocessing.base.cli import as_words
from preprocessing.base.configuration import shares_of
from preprocessing.base.errors import ConfigError
from preprocessing.base.help_page import nearest
from preprocessing.base.installed import load
from preprocessing.base.terminal import Screen, plain_line
from preprocessing.config import PreprocessConfig

LIMIT_S = 60
"""Longest wait for an answer of SLURM."""
AFTER = "--kill-on-invalid-dep=yes"
"""A job whose predecessor failed ends instead of waiting forever."""
JOBS = {
    "prepare": "preprocessing.config:PreprocessConfig",
    "train": "harness.launch.options:TrainConfig",
    "doctor": "harness.launch.doctor:DoctorConfig",
    "evaluate": "harness.inference.config:EvaluateConfig",
    "predict": "harness.inference.config:PredictConfig",
    "report": "harness.report.page:ReportConfig",
}
"""Commands that run as jobs, and their keys."""
BODIES = {"prepare": "prepare", "train": "train", "doctor": "train"}
"""Command -> its shell file, and the key of its resources; ``single`` for the others."""
SHARE = ("--executor.share", "0/2")
"""Added to a command of preprocessing that runs as several, so that what shares cannot do is refused."""
PROGRAM = re.compile(r"^\s*(\S*padless|\S+ -m (harness|preprocessing))\s+")
"""How a command may begin."""


def main(config: SubmitConfig) -> None:
    """Print what each job requests, then print, write or submit the scripts."""
    jobs, screen = jobs_of(config), Screen(errors=True)
    for line in missing(jobs):
        if not config.print and config.output is None:
            raise ConfigError(line)
        screen.say(line, "warn")
    for job in jobs:
        screen.say(summary(job))
    if config.print:
        if not Path(config.logs).is_dir():
            screen.say(f"Make the folder {config.logs} before you submit this: SLURM does not, and the job would fail.")
        print("\n".join(render(job) for job in jobs), end="")
        return
    with storing(config.logs, otherwise="name another folder for --logs"):
        Path(config.logs).mkdir(parents=True, exist_ok=True)  # SLURM does not
    if config.output is not None:
        write({Path(config.output, f"{n}-{job.command}.sbatch"): job for n, job in enumerate(jobs, 1)})
    else:
        submit(jobs)


def missing(jobs: Sequence[Job]) -> Iterator[str]:
    """A sentence for each job whose dataset is neither there nor made by an earlier one."""
    made: set[Path] = set()
    for job in jobs:
        for data in shares_of(job.data):
            place = Path(data).absolute()
            if not (place.exists() or place in made or "://" in data):
                maker = f'put "prepare FILE -o {data}" in front'
                yield f"{job.command}: {data} is not there, and no job before it makes it; {maker}"
        made.add(Path(job.run).absolute())


def write(scripts: dict[Path, Job]) -> None:
    """Write the scripts, and print the commands that submit them.

    Raises ``ConfigError`` before anything is written if one was changed there, and ``StorageError``.
    """
    for path, job in scripts.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != render(job).encode()):
            raise ConfigError(f"{path}: is there already and differs; move it away, or name another --output")
    before = ""
    for path, job in scripts.items():
        with storing(path, otherwise="name another --output"):
            atomic.write_text(path, render(job))
        print(f"sbatch {before}{shlex.quote(str(path))}")
        before = f"--dependency=afterok:JOB{job.end} {AFTER} "


def submit(jobs: list[Job]) -> None:
    """Submit each job to run after the one before; cancel all if one is refused. Raises ``ConfigError``."""
    submitted, condition = list[str](), list[str]()
    for job in jobs:
        try:
            submitted.append(ask(["sbatch", "--parsable", *condition], render(job)).partition(";")[0])
        except ConfigError as error:
            if not submitted:
                raise
            with suppress(ConfigError):
                ask(["scancel", *submitted])
            raise ConfigError(f"{error}; cancelled: {', '.join(submitted)}, submitted before it") from None
        condition = [f"--dependency=afterok:{submitted[-1]}{job.end}", AFTER]
        tasks = f", {job.size} tasks" if job.size else ""
        print(f"job {submitted[-1]}: {job.command}{tasks}", flush=True)


def jobs_of(config: SubmitConfig) -> list[Job]:
    """The jobs of a command line, in their order. Raises ``ConfigError``, also for what a command would refuse."""
    hook = hook_of(config)
    if hook and not os.path.isfile(hook):
        raise ConfigError(f"hook: {hook}: no such file; it holds the shell lines that every job reads first")
    split = [words_of(command) for command in config.jobs]
    trainings = sum(words[0] == "train" for words in split)
    if config.array.seeds and trainings != 1:
        raise ConfigError(f"array: it repeats one training, and there are {trainings} among the commands; name one")
    if config.array.parts and "prepare" not in [words[0] for words in split]:
        raise ConfigError("array.parts: it shares out prepare, which is not among the commands; leave it out")
    return [job_of(config, *words) for words in split]


def words_of(command: str) -> list[str]:
    """A command and its options, without the program. Raises ``ConfigError`` for one that no job runs."""
    try:
        name, *rest = shlex.split(PROGRAM.sub("", command)) or [""]
    except ValueError as error:
        raise ConfigError(f"{command!r}: {error}; a command and its options stand in one pair of quotes") from None
    name = "train" if name == "launch" else name
    if name not in JOBS:
        near = nearest(name, JOBS)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(JOBS)}, each in quotes with its options"
        raise ConfigError(f"{name!r}: no command that runs as a job; {hint}")
    return [name, *rest]


def job_of(config: SubmitConfig, name: str, *arguments: str) -> Job:
    """One job. Raises ``ConfigError`` as the command would."""
    body = BODIES.get(name, "single")
    own: Resources = getattr(config, body)
    resources = own.over(config)
    parts = config.array.parts or 0 if name == "prepare" else 0
    nodes = 1 if body == "single" else resources.nodes or 1
    of_job = SHARE if name == "prepare" and max(nodes, parts) > 1 else ()
    try:
        asked = cli.parse(load(JOBS[name]), (*arguments, *of_job), prog=f"padless {name}")
        if theirs := [key for key in OF_ACCELERATE if body == "train" and getattr(asked, key)]:
            raise ConfigError(f"--{theirs[0]}: the job itself gives it; --nodes and --processes say how many")
        if name == "train":
            check_named(asked)
        tasks = tasks_of(config, asked) if name == "train" else ()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    run, data = asked.run if body == "train" else "", getattr(asked, "data", None)
    if isinstance(asked, PreprocessConfig):
        resources, run = replace(resources, gpus=own.gpus), asked.output
    return Job(
        command=name,
        body=body,
        arguments=arguments,
        run="" if "://" in run else run,
        tasks=tasks,
        parts=parts,
        data="" if data in (None, NOTHING) else data,
        resources=replace(resources, nodes=nodes),
        config=config,
    )


def tasks_of(config: SubmitConfig, asked: LaunchRecipe) -> tuple[Task, ...]:
    """The trainings of an array. Raises ``ConfigError``."""
    seeds = config.array.seeds
    if seeds is None:
        return ()
    if asked.seeds is not None or asked.folds is not None:
        raise ConfigError("--seeds and --folds train one after the other; leave them out, or the array")
    every = replace(asked, seeds=seeds)
    each = [keys_of(one, every) for one in planned(every)]
    return tuple((own.pop("run"), tuple(as_words(own.items()))) for own in each)


def ask(command: list[str], script: str = "") -> str:
    """The output of a SLURM command. Raises ``ConfigError`` if it is not installed, does not answer, or fails."""
    try:
        result = subprocess.run(command, input=script, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: not found here; submit on a machine of the cluster, or --print") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]}: no answer in {LIMIT_S} s; is the controller up? scontrol ping says") from None
    if result.returncode:
        said = " ".join(result.stderr.replace("sbatch: error: ", "").split()) or f"exit code {result.returncode}"
        raise ConfigError(f"{command[0]} refused the job: {said}")
    return result.stdout.strip()


HERE = Path(__file__).parent
Task = tuple[str, tuple[str, ...]]
"""One training of an array: its run directory, and its own arguments in addition to the common ones."""
SIGNALS = {"prepare": "B:TERM@60", "train": "B:USR2@120", "single": "B:TERM@60"}
"""The signal that a job gets before its time limit, and how many seconds before."""
PLAIN = re.compile(r"[\w@%+:,./=&|*()\[\]!~^<>;$?-]+")
"""What SLURM reads as it stands in an ``#SBATCH`` line: no blank, quote, backslash or #."""
HEAD = """\
#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016 # values in single quotes are to stay as they are
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
    """Tasks that share the work, of which the first completes it; 0: the job is no such array."""
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
        """What follows the number of its job where another job waits for it: the task that completes it."""
        return "_0" if self.parts else ""

    @property
    def log(self) -> str:
        """Name of the log as SLURM fills it in."""
        name = f"%x-{'%A_%a' if self.size else '%j'}.log"
        return str(Path(self.config.logs, name))


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
        f"python=({shlex.join(python)})",
        f"hook={hook and shlex.quote(hook)}",
        f"max_restarts={config.restarts} # of this job, by itself or by SLURM",
    ]
    if job.body == "prepare":
        lines.append(f"output={shlex.quote(job.run)}")
    if job.body == "train":
        lines.append(f"per_node={config.processes or 0} # processes of each node; 0: one for each GPU, or one")
        lines.append(f"run={shlex.quote(job.run)}")
    lines += [f"arguments=({shlex.join(job.arguments)})", *([cases(job.tasks)] if job.tasks else [])]
    lines.append('set -- "${arguments[@]}" "$@"')
    return "\n".join(lines) + "\n"


def hook_of(config: SubmitConfig) -> str:
    """The path of the hook, which is never searched on the PATH; empty without one."""
    hook = config.hook or ""
    return hook if not hook or "/" in hook else f"./{hook}"


def cases(tasks: Sequence[Task]) -> str:
    """Run directory and arguments of each task of the array."""
    lines = ['case "${SLURM_ARRAY_TASK_ID:-}" in # a run directory for each task of the array']
    for number, (run, arguments) in enumerate(tasks):
        lines.append(f"    {number}) run={shlex.quote(run)} arguments+=({shlex.join(arguments)}) ;;")
    lines += ['    *) echo "error: no such task in this array" >&2 && exit 2 ;;', "esac"]
    return "\n".join(lines)


def summary(job: Job) -> str:
    """What one job requests, and where it writes."""
    asked = {key: getattr(job.resources, key) for key in NAMED}
    said = [f"{key} {value}" for key, value in asked.items() if value is not None]
    said += [directive(name, value) for name, value in job.resources.further()]
    run = f", for {job.run}" if job.run else ""
    return plain_line(f"{job.command}: {', '.join(said)}{run}; log {job.log}")
