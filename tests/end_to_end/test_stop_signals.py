# SPDX-License-Identifier: Apache-2.0
"""Law 7, for stop signals: whatever comes, at any instant, a command ends soon, with a sentence and a documented code.

Real processes, real signals. What a training says of itself in ``status.json`` is its exit code.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.commands import ROOT, listens, run_module, succeed, unwrapped
from tests.datasets import sentences, write_dataset
from tests.runs import arguments, launch, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]
PTRACE_ATTACH = 16
"""ptrace(2): hold a process, as a debugger does; unlike a stopped one, it cannot be let go on by others."""
KEPT = "what is finished is kept in"
NOTHING = "no partial output is left; run the same command again"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 400, "validation": 40, "test": 40})
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.csv"
    texts, labels = sentences(6000, 2, 3, 40)
    with open(path, "w", newline="") as file:
        rows = [
            (f"{text} u{number}", f"c{label}") for number, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def build(corpus: Path, out: Path) -> list[str]:
    more = ["--executor.workers", "2", "--source.part_mb", "0.1"]
    return [sys.executable, "-m", "preprocessing", "run", str(corpus), "--output", str(out), *more]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("instants", [8, pytest.param(30, marks=pytest.mark.night)])
def test_preprocessing_told_to_stop_again_and_again_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path, instants: int
) -> None:
    """Each start goes on from the one before; every second signal is for the whole process group, as SLURM sends it."""
    began = time.monotonic()
    succeed(run_module("preprocessing", *build(corpus, tmp_path / "whole")[3:]))
    out, kept, apart_s = tmp_path / "out", 0, max(0.05, (time.monotonic() - began) / instants)
    for number in range(instants):
        process = start(build(corpus, out))
        wait_until(partial(listens, process.pid), 30)
        time.sleep(number * apart_s)
        (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        last = unwrapped(err).splitlines()[-1] if err else ""
        assert "Traceback" not in err
        if process.returncode != 0:  # it was done before
            assert (process.returncode, last.startswith("error: told to stop by SIGTERM: ")) == (143, True), err
            assert last.endswith((NOTHING, f"{KEPT} {out / '.work'}; the same command goes on"))
            kept += KEPT in last
    succeed(run_module("preprocessing", *build(corpus, out)[3:]))
    assert kept
    assert tree(out) == tree(tmp_path / "whole")


SEQUENCES = [
    ("INT",),
    ("TERM",),
    ("HUP",),
    ("USR1",),
    ("USR2",),
    ("INT", "TERM"),
    ("TERM", "INT"),
    ("TERM", "TERM"),
    ("INT", "INT"),
    ("TERM", "INT", "INT"),
]
OFTEN = {
    "start": ("TERM", "INT INT"),
    "ranks": ("HUP", "TERM INT"),
    "training": ("INT", "USR2", "INT TERM", "TERM INT INT"),
}
"""Phase -> the sequences that are not left to the night."""
CASES = [
    pytest.param(
        phase, names, id=f"{phase} {' '.join(names)}", marks=[] if " ".join(names) in often else pytest.mark.night
    )
    for phase, often in OFTEN.items()
    for names in SEQUENCES
]


@pytest.mark.parametrize(("phase", "names"), CASES)
def test_exit_code_and_status_agree_whatever_signals_come(
    data: Path, tmp_path: Path, phase: str, names: tuple[str, ...]
) -> None:
    run, draw = tmp_path / "run", random.Random(f"{names} {phase}")
    process = launch(data, run, "--epochs", "300")
    if phase == "training":
        wait_until(lambda: process.poll() is not None or (run / "metrics.jsonl").exists())
    wait_until(lambda: listens(process.pid), 30)
    if phase == "ranks":
        wait_until(lambda: process.poll() is not None or bool(psutil.Process(process.pid).children()))
    time.sleep(draw.uniform(0, 2) if phase != "start" else draw.uniform(0, 8))
    for name in names:
        os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        time.sleep(draw.choice([0.0, 0.15, 0.5]))
    code = process.wait(90)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert code in ((85, 130) if names.count("INT") > 1 else (85,)), said
    status = json.loads((run / "status.json").read_text()) if (run / "status.json").exists() else None
    if status is None:
        assert ("interrupted twice" if code == 130 else "error: told to stop b") in said  # by …; before the first step
    else:
        assert (status["exit_code"], status["state"]) == (code, "preempted" if code == 85 else "failed")
    assert phase == "start" or status is not None or not run.is_dir()
    assert phase != "training" or status is not None


@pytest.mark.parametrize("which", [0, 1])
def test_a_frozen_rank_is_killed_and_named_when_the_launcher_is_told_to_stop(
    data: Path, tmp_path: Path, which: int
) -> None:
    run = tmp_path / "run"
    process = launch(data, run, "--epochs", "300")
    wait_until((run / "metrics.jsonl").exists)
    ranks = {int(rank.environ()["RANK"]): rank for rank in psutil.Process(process.pid).children()}
    held = ranks[which].pid
    assert ctypes.CDLL(None).ptrace(PTRACE_ATTACH, held, 0, 0) == 0
    began = time.monotonic()
    process.terminate()
    while process.poll() is None and time.monotonic() - began < 60:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(held, os.WNOHANG)  # whoever holds a process hears first of its end
        time.sleep(0.02)
    assert process.poll() == 1
    status = json.loads((run / "status.json").read_text())
    who = f"rank {which} (process {held}, t (held by a debugger)) did not answer SIGTERM within 15 s and was killed"
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert status["reason"].startswith(who)
    assert f"error: {who}" in unwrapped((tmp_path / "log").read_text())


def test_a_frozen_rank_is_let_go_on_and_saves(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(data, run, "--epochs", "300")
    wait_until((run / "metrics.jsonl").exists)
    for rank in psutil.Process(process.pid).children():
        rank.suspend()
    process.terminate()
    assert process.wait(60) == 85
    assert json.loads((run / "status.json").read_text())["state"] == "preempted"


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_other_commands_stop_at_random_instants(data: Path, corpus: Path, tmp_path: Path) -> None:
    """A sentence and the code of the signal, or done; nothing half-written, nothing left running."""
    run, draw = tmp_path / "model", random.Random(18)
    one = ["--num_processes", "1", *arguments(data, run, "--epochs", "1")]
    succeed(run_module("harness", "launch", *one))
    out = tmp_path / "out"
    commands = {
        "predict": ["--run", run, "--input", corpus, "--output", out / "p.csv", "--processes", "2", "--part_mb", "0.1"],
        "evaluate": ["--run", run, "--data", data, "--split", "test"],
        "label": ["--run", run, "--data", data, "--splits", "train", "--output", out / "l.arrow"],
        "export": [run, "--output", out / "export"],
        "report": [run, "--output", out / "r.html"],
    }
    before = tree(run)
    out.mkdir()
    for name, words in commands.items():
        for signal_name, code in (("SIGTERM", 143), ("SIGINT", 130)):
            shutil.rmtree(out / "export", ignore_errors=True)  # of one that was done before its signal
            process = start([sys.executable, "-m", "harness", name, *map(str, words)])
            wait_until(partial(listens, process.pid), 30)
            time.sleep(draw.uniform(0, 8))
            os.killpg(process.pid, getattr(signal, signal_name))
            _, err = process.communicate(timeout=60)
            assert "Traceback" not in err
            assert process.returncode in (0, code), f"{name}: {err}"
            assert process.returncode == 0 or unwrapped(err).splitlines()[-1].startswith("error: ")
            wait_until(partial(is_gone, process.pid), 10)
    weights = [name for name in before if name.endswith(".safetensors")]
    assert weights
    assert {name: tree(run)[name] for name in weights} == {name: before[name] for name in weights}
    last = [str(word) for word in commands["predict"]]
    succeed(run_module("harness", "predict", *last))
    assert len((out / "p.csv").read_text().splitlines()) == 6001
