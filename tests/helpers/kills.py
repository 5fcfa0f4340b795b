# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.helpers.kills WHAT SOURCE FOLDER INSTANTS``: a job is killed at every change of the disk.

WHAT is ``dataset``: a child that this process forks replaces FOLDER/out, a copy of FOLDER/old, by a dataset of the
corpus SOURCE with another seed. Or it is ``run``: the child trains on the dataset SOURCE, with checkpoints of which
one is kept, some of them at a step that has one. Before its n-th change of a name on the disk (a rename, a removal;
in a run also a file that was written, a line of a log) the child kills itself. Then one whole dataset must
be there, or the newest checkpoint and the bundle that were; and the same command must go on to the same bytes.
INSTANTS is ``all``, or ``few``: those around the moment at which a directory takes the place of another.

Children are forked from a process that has imported everything and started no thread: a kill takes milliseconds. What
SIGKILL leaves does not depend on the disk, so nothing waits for it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import CheckpointConfig, OptimConfig, TrackingConfig
from harness.distributed.session import open_session
from harness.distributed.stopping import AlreadyFinished
from harness.inference.bundle import Bundle
from harness.rundir import checkpoint
from harness.rundir.bundle_files import INDEX
from harness.rundir.json_files import read_lines
from harness.rundir.layout import BUNDLE, CONFIG
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import read_run_config, read_status
from harness.training import assembly
from harness.training.writer import Checkpointer
from padless.commands import main as preprocessing
from padless.core import atomic, cli
from preprocessing.dataset.inspect import verify_dataset
from preprocessing.dataset.shards import MANIFEST, read_manifest
from tests.helpers.commands import read_json
from tests.helpers.corpora import contents, words_of
from tests.helpers.ranks import PRELOADED
from tests.helpers.runs import final, small

STRANGER = "notes.txt"
CHANGES = ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (atomic, "take_place"))
OF_RUNS = ((os, "mkdir"), (os, "fsync"), (atomic, "append_line"), (MetricsLog, "write"))
"""What else changes the disk in a training. A file is flushed when it was written and does not have its name yet."""
DIFFERENT = 97
Changed = Callable[[int, str], None]


def arguments(source: Path, output: Path, seed: int) -> list[str]:
    """The command that makes or replaces the dataset."""
    more = ("--shards.rows", 100, "--source.part_mb", 0.01)
    return words_of(source, output, "--seed", seed, "--overwrite", *more)


def run_in_child(work: Callable[[], int]) -> int:
    """Run ``work`` in a child; its exit code, or the negative signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watch(changed: Changed, changes: Sequence[tuple[Any, str]] = CHANGES) -> None:
    """Call ``changed`` before each change of the disk by this process, with its number from 0 and its name."""
    counter = itertools.count()

    def wrap(change: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            changed(next(counter), name)
            return change(*arguments, **more)

        return call

    for module, name in changes:
        setattr(module, name, wrap(getattr(module, name), name))


def replace(source: Path, folder: Path, changed: Changed) -> int:
    """Replace the dataset in FOLDER/out, in a child of its own; returns how that ended."""
    for name in ("out", "out.building", "out.before"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(folder / "old", folder / "out")
    (folder / "out" / STRANGER).write_bytes(b"mine")

    def work() -> int:
        watch(changed)
        return cli.run(preprocessing, arguments(source, folder / "out", seed=1))

    return run_in_child(work)


def check(source: Path, folder: Path) -> int:
    """0 if one whole dataset is there and the same command makes the new one."""
    output, stands_aside = folder / "out", folder / "out.before"
    fingerprints = {read_manifest(folder / name).fingerprint for name in ("old", "new")}
    dataset = output if (output / MANIFEST).exists() else stands_aside
    verify_dataset(dataset)
    if (
        read_manifest(dataset).fingerprint not in fingerprints
        or cli.run(preprocessing, arguments(source, output, seed=1)) != 0
    ):
        return 1
    files = contents(output)
    is_stranger_kept = files.pop(STRANGER, None) == b"mine"
    litter = [path.name for path in folder.iterdir() if path.name.startswith("out.")]
    return 0 if is_stranger_kept and not litter and files == contents(folder / "new") else DIFFERENT


def train(source: Path, run: Path) -> int:
    """Train on a small dataset, without report, TF-IDF baseline and trackers."""
    parts = {"checkpoint": CheckpointConfig(every_steps=1, keep_last=1), "tracking": TrackingConfig(log_every=1)}
    parts |= {"optim": OptimConfig(ema=0.9, lr=0.1)}
    config = small(source, run, wide=64, epochs=2, global_batch=20, **parts)
    save = Checkpointer.save  # not beside the training: in its own place among the changes
    Checkpointer.save = lambda *args, wait: save(*args, wait=True)  # type: ignore[method-assign]
    leaving = suppress(AlreadyFinished)  # as the entry point of a rank does
    with leaving, open_session("cpu", "fp32", 60) as session, assembly.open_run(config, session) as opened:
        opened.train()
    return 0


def begin(source: Path, folder: Path, changed: Changed) -> int:
    """Train in FOLDER/out, in a child of its own; returns how that ended.

    Whatever had its name before a change is noted in FOLDER/seen: the step of the newest checkpoint, and other files.
    """
    shutil.rmtree(folder / "out", ignore_errors=True)
    names_seen = {}

    def note(number: int, name: str) -> None:
        paths = {str(path): 1 for path in (Path(CONFIG), Path("status.json"), Path(BUNDLE, INDEX))}
        existing = {path: 1 for path in paths if (folder / "out" / path).exists()}
        names_seen.update({**existing, "step": max([*checkpoint.steps(folder / "out"), names_seen.get("step", 0)])})
        (folder / "seen").write_text(json.dumps(names_seen))
        changed(number, name)

    def work() -> int:
        watch(note, (*CHANGES, *OF_RUNS))
        return train(source, folder / "out")

    return run_in_child(work)


def go_on(source: Path, folder: Path) -> int:
    """0 if all that was seen is complete, and the same training ends as an undisturbed one."""
    run, names_seen = folder / "out", read_json(folder / "seen")
    damaged = []
    newest = checkpoint.newest(run, damaged.append)
    step = 0 if newest is None else newest.step
    if damaged or step < names_seen["step"]:
        return 1
    if names_seen.get(CONFIG):
        read_run_config(run)
    if names_seen.get("status.json"):
        assert read_status(run)
    if names_seen.get(str(Path(BUNDLE, INDEX))):
        Bundle(run / BUNDLE)
    is_finished = read_status(run).get("state") == "finished"
    if train(source, run):
        return 1
    litter = [path for path in run.rglob("*") if ".tmp-" in path.name or path.name.endswith(".before")]
    is_same = final(run) == final(folder / "new")
    has_resumed = is_finished or read_lines(run / "attempts.jsonl")[-1]["resumed_from"] == (step or None)
    return 0 if is_same and not litter and has_resumed else DIFFERENT


def make_new(job_kind: str, source: Path, folder: Path) -> None:
    """Make the undisturbed results: the new dataset, and the one that it replaces, or a run."""
    if job_kind == "run":
        assert run_in_child(partial(train, source, folder / "new")) == 0
        return
    assert run_in_child(partial(cli.run, preprocessing, arguments(source, folder / "old", seed=0))) == 0
    shutil.copytree(folder / "old", folder / "new")
    assert run_in_child(partial(cli.run, preprocessing, arguments(source, folder / "new", seed=1))) == 0


def chosen(changes: list[str], instants: str) -> list[int]:
    """The numbers of the changes at which the job is killed."""
    if instants == "all":
        return list(range(len(changes)))
    replacements = [number for number, name in enumerate(changes) if name == "take_place"]
    return sorted(number + offset for number in replacements for offset in range(-1, 4))


def main(job_kind: str, source: Path, folder: Path, instants: str) -> dict[str, Any]:
    """The number of kills, of possible kills, and the kills after which something was wrong."""
    for module in PRELOADED if job_kind == "run" else ():
        importlib.import_module(module)
    os.fsync = lambda descriptor: None
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what hundreds of runs say
    work, examine = (begin, go_on) if job_kind == "run" else (replace, check)
    make_new(job_kind, source, folder)
    log = folder / "changes"

    def note(number: int, name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    assert work(source, folder, note) == 0
    changes = log.read_text().split()
    numbers, wrong = chosen(changes, instants), []
    for number in numbers:

        def kill(at: int, name: str, number: int = number) -> None:
            if at == number:
                os.kill(os.getpid(), signal.SIGKILL)

        code = work(source, folder, kill)
        examination = run_in_child(partial(examine, source, folder))
        if (code, examination) != (-signal.SIGKILL, 0):
            wrong.append([number, changes[number], code, examination])
    return {"kills": len(numbers), "of": len(changes), "changes": sorted(set(changes)), "wrong": wrong}


if __name__ == "__main__":
    answer = main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    print(json.dumps(answer), file=sys.__stdout__)
