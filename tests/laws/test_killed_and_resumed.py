# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run killed at any instant and started again ends bit for bit where it would have ended."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import RunConfig
from harness.launch import many
from harness.launch.launcher import Launch
from harness.launch.options import TrainConfig
from harness.rundir.records import Ending, State, write_status
from harness.training import run as training
from padless.core import cli
from padless.core.errors import UserError
from tests.helpers.commands import CPU, read_metrics, run_module, succeed, unwrapped, values_in_log
from tests.helpers.datasets import shared_dataset, write_dataset
from tests.helpers.runs import Ranks, arguments, final, finish, kill, launch, log, start, wait_for_step
from tests.helpers.teachers import ORACLE, prepare_corpus, write_taught

pytestmark = pytest.mark.processes


data = shared_dataset({"train": 900, "validation": 150, "test": 150})


@pytest.fixture(scope="module")
def reference_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(data, run), run)
    return run


def work_as_on_a_card() -> None:
    """On a rank: a log line is written with the next."""
    training.computes_later = lambda device: True


def test_work_beside_the_steps_of_a_card_changes_no_figure(data: Path, reference_run: Path, tmp_path: Path) -> None:
    """Also of a run that was stopped."""
    run = tmp_path / "run"
    finish(start(data, run, "--max_time", "0.01", setup=work_as_on_a_card), run, 85)
    finish(start(data, run, setup=work_as_on_a_card), run)
    assert final(run) == final(reference_run)


def read_files(run: Path) -> dict[Path, bytes]:
    """All files of a run but its lock, which names the process that has it."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def repeat_command(data: Path, run: Path, *words: str) -> tuple[int, str]:
    """The exit code of the command of a run that ended, and what it printed. It starts no rank and changes no file."""
    files = read_files(run)
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(Launch, "run", lambda launch: pytest.fail("it trains"))
        try:
            code = many.main(cli.parse(TrainConfig, [*CPU, *arguments(data, run, *words)], prog="train"))
        except UserError as error:
            code = error.exit_code
            print(error)
    assert read_files(run) == files
    return code, unwrapped(out.getvalue())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True),
    "cut": lambda path: path.is_file() and os.truncate(path, path.stat().st_size // 2),
    "garbled": lambda path: path.is_file() and path.write_text("x"),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("state", "damaged", "way", "words", "expected"),
    [
        ("finished", "checkpoints", "gone", "", (0, "has finished already")),
        ("finished", "checkpoints", "gone", "--epochs 9 --allow epochs", (3, "no checkpoint")),
        ("finished", "checkpoints/*/state.json", "cut", "", (3, "state.json")),
        ("preempted", "checkpoints/*/state.json", "garbled", "", (3, "state.json")),
        ("finished", "status.json", "gone", "", (3, "status.json")),
        ("finished", "", "cut", "--evaluation.threshold f1", (2, "evaluation.threshold")),
        ("preempted", "", "cut", "--evaluation.threshold f1 --allow evaluation", (2, "evaluation.threshold")),
    ],
)
def test_what_is_lost_of_a_run_is_never_replaced(
    data: Path, reference_run: Path, tmp_path: Path, state: State, damaged: str, way: str, words: str, expected: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference_run, run)
    write_status(run, Ending(state, 9))
    for path in run.glob(damaged) if damaged else ():
        DAMAGES[way](path)
    code, sentence = repeat_command(data, run, *words.split())
    assert code == expected[0]
    assert expected[1] in sentence


def test_ranks_that_waited_for_the_end_of_a_run_leave_it_as_it_is(
    data: Path, reference_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference_run, run)
    files = read_files(run)
    finish(start(data, run), run)
    assert read_files(run) == files
    assert f"{run} has finished already" in unwrapped(log(run))


@pytest.mark.timeout(280, func_only=True)
def test_patience_that_ended_a_run_lets_it_go_on_when_there_is_more_of_it(data: Path, tmp_path: Path) -> None:
    run, still = tmp_path / "run", ("--tracking.log_every", "1", "--optim.lr", "1e-9", "--global_batch", "300")
    for patience, epochs, validations in (("1", "5", 2), ("3", "6", 4)):
        words = (*still, "--patience", patience, "--epochs", epochs, "--allow", "patience,epochs")
        finish(start(data, run, *words, processes=1), run)
        assert len(read_metrics(run, "validation")) == validations
    assert values_in_log(run, "step") == list(range(1, 13))
    assert "patience was 1, now 3" in unwrapped(log(run))


def kill_again_and_again(begin: Callable[[Path, Path], Any], data: Path, run: Path, total: int, kills: int) -> int:
    """Kill a run of ``total`` steps ``kills`` times, wherever it is, and let it end; how many kills found it alive."""
    dice = random.Random(0)
    hits = 0
    for number in range(kills):
        process = begin(data, run)
        wait_for_step(process, run, (number + dice.random()) / kills * total * 1.02)
        time.sleep(dice.random() * 0.3)
        if process.poll() is None:
            hits += 1
            process.kill() if isinstance(process, Ranks) else kill(process)
    finish(begin(data, run), run)
    return hits


@pytest.mark.timeout(900, func_only=True)
@pytest.mark.parametrize(
    ("begin", "kills"),
    [
        (start, 3),
        pytest.param(launch, 6, marks=pytest.mark.slow),
        pytest.param(launch, 30, marks=pytest.mark.night),
    ],
)
def test_killed_again_and_again_by_itself_or_with_its_launcher(
    begin: Callable[[Path, Path], Any], kills: int, data: Path, reference_run: Path, tmp_path: Path
) -> None:
    total = read_metrics(reference_run, "train")[-1]["step"]
    assert kill_again_and_again(begin, data, tmp_path / "run", total, kills) >= kills // 3
    assert final(tmp_path / "run") == final(reference_run)


@pytest.mark.slow
@pytest.mark.timeout(1600, func_only=True)
def test_killed_at_every_change_of_the_disk(tmp_path: Path) -> None:
    """Of checkpoints, bundle and the files of the run; a checkpoint takes the place of another."""
    rows = {"train": 40, "validation": 16, "test": 16}
    write_dataset(tmp_path / "data", rows, longest=12, widths=(8, 16), block_rows=16)
    words = ("run", tmp_path / "data", tmp_path, "all")
    report = json.loads(succeed(run_module("tests.helpers.kills", *words, timeout_s=1500)).stdout)
    assert report["wrong"] == []
    assert report["kills"] > 100
    assert {"rename", "replace", "rmdir", "unlink", "fsync", "write"} <= set(report["changes"])


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
def test_killed_while_it_learns_from_a_teacher(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_corpus(tmp_path, labelled=300, unlabelled=500)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 800)
    run, reference, words = tmp_path / "killed" / "run", tmp_path / "whole" / "run", ("--teacher", ORACLE)
    for path in (run, reference):
        write_taught(RunConfig(data=str(data), run=str(path), teacher=ORACLE), np.arange(1, 801), shares)
    finish(start(data, reference, *words), reference)
    assert read_metrics(reference, "train")[-1]["step"] == 3 * -(-(240 + 500) // 16)
    process = start(data, run, *words)
    wait_for_step(process, run, 60)
    process.kill()
    finish(start(data, run, *words), run)
    assert final(run) == final(reference)


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize(
    ("rows", "label_sets", "options"),
    [
        ({}, None, ("--init.vectors", "own", "--model.embedding_std", "0.5", "--model.freeze_embedding", "always")),
        ({"unlabelled": 200}, None, ("--task", "language_model", "--language_model.candidates", "30")),
        ({}, [[], [0], [0, 1]], ("--model.wide", "64")),
    ],
    ids=["with vectors of its own texts", "while it pretrains", "with several labels"],
)
def test_killed_in_other_trainings(
    tmp_path: Path, rows: dict[str, int], label_sets: list[list[int]] | None, options: tuple[str, ...]
) -> None:
    data, run, reference = tmp_path / "data", tmp_path / "killed" / "run", tmp_path / "whole" / "run"
    write_dataset(data, {"train": 400, "validation": 100, "test": 50, **rows}, label_sets=label_sets)
    processes = 1 if "own" in options else 2
    finish(start(data, reference, *options, processes=processes), reference)
    for step in (20, 56):
        process = start(data, run, *options, processes=processes)
        wait_for_step(process, run, step)
        process.kill()
    finish(start(data, run, *options, processes=processes), run)
    assert final(run) == final(reference)
