# SPDX-License-Identifier: Apache-2.0
"""``padless submit "COMMAND …" …``: job scripts for SLURM, printed or submitted in a chain.

Each command is parsed as its own program does it, so that mistakes are reported before any job waits in a queue. A
script is one of ``launch/slurm/*.sbatch`` with its ``#SBATCH`` lines and variables filled in, by pure functions.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config import NOTHING
from harness.launch.many import check_named
from harness.launch.options import ACCELERATE_KEYS, TrainConfig
from harness.slurm.config import OPTION_BY_KEY, Resources, SubmitConfig, split_shell_words
from preprocessing.base import cli
from preprocessing.base.atomic import storage_errors
from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import load_object
from preprocessing.base.suggestions import suggestion
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig

SLURM_LIMIT_S = 60
"""Longest wait for an answer of SLURM."""
KILL_ORPHANS = "--kill-on-invalid-dep=yes"
"""A job whose predecessor failed ends instead of waiting forever."""
CONFIG_BY_COMMAND = {
    "prepare": "preprocessing.config:PreprocessConfig",
    "train": "harness.launch.options:TrainConfig",
    "evaluate": "harness.inference.config:EvaluateConfig",
    "predict": "harness.inference.config:PredictConfig",
    "report": "harness.report.page:ReportConfig",
}
"""Commands that run as jobs, and their keys."""
SCRIPT_BY_COMMAND = {"prepare": "prepare", "train": "train"}
"""Command -> its script, and the key of its resources; ``single`` for the others."""
SHARE_WORDS = ("--executor.share", "0/2")
"""Added to a command of preprocessing that runs as several, so that what shares cannot do is refused."""
PROGRAM = re.compile(r"^\s*\S*padless\s+")
"""How a command may begin."""
ROOT = Path(__file__).parents[2]
SCRIPTS = next(folder for folder in (ROOT / "launch/slurm", ROOT / "padless_slurm") if folder.is_dir())
"""The folder of the scripts, in a checkout or installed."""
HEAD_END = 'set -- "${arguments[@]}" "$@"\n'
"""The last line of a script's variables."""
START_LINES = re.compile(r"^# shellcheck source=.*\nsource launch/slurm/(.*)$", re.MULTILINE)
"""What a script reads from a file beside it, which a filled script contains."""
UNQUOTED = re.compile(r"[\w@%+:,./=&|*()\[\]!~^<>;$?-]+")
"""What SLURM reads unchanged in an ``#SBATCH`` line: no blank, quote, backslash or #."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One script, in plain values."""

    command: str
    """Command of padless, which names the job too."""
    script: str
    """``prepare``, ``train`` or ``single``."""
    arguments: tuple[str, ...]
    run: str = ""
    """Run directory of a training, or where a dataset is built; empty: on no disk of this machine."""
    data: str = ""
    """The dataset that it reads."""
    resources: Resources
    config: SubmitConfig

    @property
    def options(self) -> list[tuple[str, str | None]]:
        """Further options of sbatch."""
        return self.resources.parse_options()

    @property
    def task_to_await(self) -> str:
        """What follows the number of its job where another job waits for it: the task that completes a dataset."""
        return "_0" if self.script == "prepare" and "array" in dict(self.options) else ""


def main(config: SubmitConfig) -> None:
    """Print or submit the scripts."""
    jobs = plan_jobs(config)
    check_datasets(jobs)
    if config.print:
        if not Path(config.logs).is_dir():
            sentence = f"Make the folder {config.logs} before you submit this: SLURM does not, and the job would fail."
            Screen(errors=True).print_text(sentence)
        print("\n".join(render_script(job) for job in jobs), end="")
        return
    with storage_errors(config.logs, otherwise="name another folder for --logs"):
        Path(config.logs).mkdir(parents=True, exist_ok=True)  # SLURM does not
    submit(jobs)


def check_datasets(jobs: Sequence[Job]) -> None:
    """Raise ``ConfigError`` for a job whose dataset is neither there nor made by an earlier one."""
    planned_paths: set[Path] = set()
    for job in jobs:
        path = Path(job.data).absolute()
        if not (path.exists() or path in planned_paths or "://" in job.data):
            advice = f'put "prepare FILE -o {job.data}" in front'
            raise ConfigError(f"{job.command}: {job.data} is not there, and no job before it makes it; {advice}")
        planned_paths.add(Path(job.run).absolute())


def submit(jobs: Sequence[Job]) -> None:
    """Submit each job to run after the one before; cancel all if one is refused. Raises ``ConfigError``."""
    numbers, condition = list[str](), list[str]()
    for job in jobs:
        try:
            numbers.append(ask_slurm(["sbatch", "--parsable", *condition], render_script(job)).partition(";")[0])
        except ConfigError as error:
            if not numbers:
                raise
            with suppress(ConfigError):
                ask_slurm(["scancel", *numbers])
            raise ConfigError(f"{error}; cancelled: {', '.join(numbers)}, submitted before it") from None
        condition = [f"--dependency=afterok:{numbers[-1]}{job.task_to_await}", KILL_ORPHANS]
        print(f"job {numbers[-1]}: {job.command}", flush=True)


def ask_slurm(command: list[str], script: str = "") -> str:
    """The output of a SLURM command. Raises ``ConfigError`` if it is not installed, does not answer, or fails."""
    try:
        result = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=SLURM_LIMIT_S, check=False
        )
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: not found here; submit on a machine of the cluster, or --print") from None
    except subprocess.TimeoutExpired:
        advice = "scontrol ping shows whether the controller runs"
        raise ConfigError(f"{command[0]}: no answer in {SLURM_LIMIT_S} s; {advice}") from None
    if result.returncode:
        reason = " ".join(result.stderr.replace("sbatch: error: ", "").split()) or f"exit code {result.returncode}"
        raise ConfigError(f"{command[0]} refused the job: {reason}")
    return result.stdout.strip()


def plan_jobs(config: SubmitConfig) -> list[Job]:
    """The jobs of a command line, in their order. Raises ``ConfigError``, also for what a command would refuse."""
    hook = hook_path(config)
    if hook and not os.path.isfile(hook):
        raise ConfigError(f"hook: {hook}: no such file; it holds the shell lines that every job reads first")
    return [plan_job(config, *split_command(command)) for command in config.jobs]


def split_command(command: str) -> list[str]:
    """A command and its options, without the program. Raises ``ConfigError`` for one that no job runs."""
    try:
        name, *options = shlex.split(PROGRAM.sub("", command)) or [""]
    except ValueError as error:
        raise ConfigError(f"{command!r}: {error}; put a command and its options in one pair of quotes") from None
    if name not in CONFIG_BY_COMMAND:
        listing = f"there are {', '.join(CONFIG_BY_COMMAND)}, each in quotes with its options"
        hint = suggestion(name, CONFIG_BY_COMMAND, "", listing)
        raise ConfigError(f"{name!r}: no command that runs as a job; {hint}")
    return [name, *options]


def plan_job(config: SubmitConfig, name: str, *arguments: str) -> Job:
    """One job. Raises ``ConfigError`` as the command would."""
    script = SCRIPT_BY_COMMAND.get(name, "single")
    special: Resources = getattr(config, script)
    resources = special.fill_from(config)
    num_nodes = 1 if script == "single" else resources.nodes or 1
    is_shared = num_nodes > 1 or "array" in dict(resources.parse_options())
    share = SHARE_WORDS if name == "prepare" and is_shared else ()
    try:
        job_config = cli.parse(load_object(CONFIG_BY_COMMAND[name]), (*arguments, *share), prog=f"padless {name}")
        if name == "train":
            check_training(job_config)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    run, data = job_config.run if name == "train" else "", getattr(job_config, "data", None)
    if isinstance(job_config, PreprocessConfig):
        resources, run = replace(resources, gpus=special.gpus), job_config.output
    is_local = "://" not in run
    data_path = "" if data in (None, NOTHING) else str(data)
    return Job(
        command=name,
        script=script,
        arguments=arguments,
        run=run if is_local else "",
        data=data_path,
        resources=replace(resources, nodes=num_nodes),
        config=config,
    )


def check_training(job_config: TrainConfig) -> None:
    """Raise ``ConfigError`` for keys that the job itself gives."""
    for key in ACCELERATE_KEYS:
        if getattr(job_config, key):
            raise ConfigError(f"--{key}: the job itself gives it; --nodes and --processes say how many")
    check_named(job_config)


def render_script(job: Job) -> str:
    """The whole script."""
    text = (SCRIPTS / f"{job.script}.sbatch").read_text(encoding="utf-8")
    head, _, body = text.partition(HEAD_END)
    comments = [line for line in head.splitlines() if line.startswith("#") and not line.startswith("#SBATCH")]
    filled = START_LINES.sub(lambda match: (SCRIPTS / match[1]).read_text(encoding="utf-8"), body)
    return "\n".join([*comments, render_directives(job), render_variables(job) + filled])


def render_directives(job: Job) -> str:
    """The ``#SBATCH`` lines, one for each option."""
    config = job.config
    lines: dict[str, str | int | None] = {"job-name": f"padless-{job.command}"}
    for key, option in OPTION_BY_KEY.items():
        value = getattr(job.resources, key)
        if value is not None and (key, str(value)) != ("gpus", "0"):
            lines[option] = value
    lines["ntasks-per-node"] = 1
    signal = "B:USR2@120" if job.script == "train" else "B:TERM@60"
    lines |= {
        "output": str(Path(config.logs, "%x-%j.log")),
        "open-mode": "append",
        "requeue" if config.restarts else "no-requeue": None,
    }
    options = [*lines.items(), ("signal", signal), *job.options]
    return "".join(f"#SBATCH {render_option(name, value)}\n" for name, value in options)


def render_option(name: str, value: str | int | None) -> str:
    """One option, its value quoted as SLURM reads quotes where it has to be."""
    if value is None:
        return f"--{name}"
    text = str(value)
    if not UNQUOTED.fullmatch(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    return f"--{name}={text}"


def render_variables(job: Job) -> str:
    """What the script reads, each value quoted for the shell."""
    config, hook = job.config, hook_path(job.config)
    python = split_shell_words("python", config.python or ("python" if hook else shlex.quote(sys.executable)))
    lines = [
        f"command={shlex.quote(job.command)}",
        f"python=({shlex.join(python)})",
        f"hook={hook and shlex.quote(hook)}",
        f"max_restarts={config.restarts} # of this job, by itself or by SLURM",
        f"per_node={config.processes or 0} # processes of each node; 0: one for each GPU, or one",
        f"{'output' if job.script == 'prepare' else 'run'}={shlex.quote(job.run)}",
        f"arguments=({shlex.join(job.arguments)})",
    ]
    return "\n".join(lines) + "\n" + HEAD_END


def hook_path(config: SubmitConfig) -> str:
    """The path of the hook, which is never searched on the PATH; empty without one."""
    hook = config.hook or ""
    return hook if not hook or "/" in hook else f"./{hook}"
