# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.kills SOURCE FOLDER INSTANTS EXCHANGE``: a dataset is replaced, and killed at every instant.

A child that this process forks replaces FOLDER/out, a copy of FOLDER/old, by a dataset of another seed. Before its n-th
change of a name on the disk (a rename, an exchange, a removal) the child kills itself. Then one whole dataset must be
there, and the same command must go on to the same bytes. INSTANTS is ``all`` or ``few``: those around the exchange and
two others. EXCHANGE ``no`` takes the call that exchanges two names away.

Children are forked from a process that has imported everything and started no thread: a kill takes milliseconds. What
SIGKILL leaves does not depend on the disk, so nothing waits for it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from preprocessing.__main__ import main as preprocessing
from preprocessing.base import answering, swap
from preprocessing.dataset.shards import MANIFEST, read_manifest
from preprocessing.dataset.verification import verify
from tests.corpora import contents

STRANGER = "notes.txt"
CHANGES = ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (swap, "exchanged"))
DIFFERENT = 97


def arguments(source: Path, output: Path, seed: int) -> list[str]:
    """The command that makes or replaces the dataset."""
    small = ["--text.max_tokens", "64", "--vocabulary.min_count", "1", "--shards.rows", "100"]
    words = ["run", "--source.path", str(source), "--output", str(output), "--seed", str(seed), "--overwrite"]
    return [*words, "--executor.workers", "1", "--source.part_mb", "0.01", *small]


def forked(work: Callable[[], int]) -> int:
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


def watch(changed: Callable[[int, str], None], exchange: bool) -> None:
    """Call ``changed`` before each change of the disk by this process, with its number from 0 and its name."""
    counter = itertools.count()
    if not exchange:
        swap.exchanged = lambda one, other: False

    def watched(change: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            changed(next(counter), name)
            return change(*arguments, **more)

        return call

    for module, name in CHANGES:
        setattr(module, name, watched(getattr(module, name), name))


def replace(source: Path, folder: Path, exchange: bool, changed: Callable[[int, str], None]) -> int:
    """Replace the dataset in FOLDER/out, in a child of its own; returns how that ended."""
    for name in ("out", "out.building", "out.before"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(folder / "old", folder / "out")
    (folder / "out" / STRANGER).write_bytes(b"mine")

    def work() -> int:
        watch(changed, exchange)
        return answering.run(preprocessing, arguments(source, folder / "out", seed=1))

    return forked(work)


def check(source: Path, folder: Path, exchange: bool) -> int:
    """0 if one whole dataset is there and the same command makes the new one."""
    output, stands_aside = folder / "out", folder / "out.before"
    fingerprints = {read_manifest(folder / name).fingerprint for name in ("old", "new")}
    there = output if exchange or (output / MANIFEST).exists() else stands_aside
    whole = verify(there) == [] and read_manifest(there).fingerprint in fingerprints
    if not whole or answering.run(preprocessing, arguments(source, output, seed=1)) != 0:
        return 1
    found = contents(output)
    kept = found.pop(STRANGER, None) == b"mine"
    litter = [path.name for path in folder.iterdir() if path.name.startswith("out.")]
    return 0 if kept and not litter and found == contents(folder / "new") else DIFFERENT


def main(source: Path, folder: Path, instants: str, exchange: bool) -> dict[str, Any]:
    """How many kills there were, and those after which something was wrong."""
    os.fsync = lambda descriptor: None
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what hundreds of runs say
    for name, seed in (("old", 0), ("new", 1)):
        assert forked(partial(answering.run, preprocessing, arguments(source, folder / name, seed))) == 0
    log = folder / "changes"

    def note(number: int, name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    assert replace(source, folder, exchange, note) == 0
    changes = log.read_text().split()
    numbers = list(range(len(changes)))
    if instants == "few":
        here = changes.index("exchanged")
        numbers = [3, here, here + 1, here + 2, len(changes) - 2]
    wrong = []
    for number in numbers:

        def kill(at: int, name: str, number: int = number) -> None:
            if at == number:
                os.kill(os.getpid(), signal.SIGKILL)

        code = replace(source, folder, exchange, kill)
        found = forked(partial(check, source, folder, exchange))
        if (code, found) != (-signal.SIGKILL, 0):
            wrong.append([number, changes[number], code, found])
    return {"kills": len(numbers), "changes": sorted(set(changes)), "wrong": wrong}


if __name__ == "__main__":
    answer = main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "yes")
    print(json.dumps(answer), file=sys.__stdout__)
