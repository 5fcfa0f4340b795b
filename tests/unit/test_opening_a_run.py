# SPDX-License-Identifier: Apache-2.0
"""``status.json`` is true once the run directory is locked: it shows an exception at any line of building a run."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from harness.config import CheckpointConfig, RunConfig
from harness.distributed.session import Session, open_session
from harness.rundir.layout import check_claim, claim_run
from harness.rundir.records import Ending, read_status, write_status
from harness.training import assembly, writer
from harness.training.assembly import assemble
from harness.training.writer import RunWriter
from padless.core.errors import ConfigError, DataError
from padless.core.terminal import Live
from tests.helpers import checkpoints
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import small

pytestmark = pytest.mark.processes  # the environment of a run names git's revision


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    root = tmp_path_factory.mktemp("opening")
    write_dataset(root / "data", {"train": 40, "validation": 10})
    saving = CheckpointConfig(every_steps=1)
    return small(root / "data", root / "run", epochs=1, global_batch=20, checkpoint=saving)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session("cpu", "fp32", 60) as opened:
        yield opened


class PlantedError(Exception):
    """An unexpected error."""


def make_trace(line: Callable[[FrameType], None]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that calls ``line`` before every line of building a run."""
    files = {assembly.__file__, writer.__file__}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in files or frame.f_code.co_name == "__exit__":
            return None
        if event == "line":
            line(frame)
        return trace

    return trace


def build(config: RunConfig, session: Session, run: Path, trace: Any = None) -> None:
    """Build a run and leave it, with a trace function in between."""
    with RunWriter(dataclasses.replace(config, run=str(run)), (), active=True) as opened:
        earlier_trace = sys.gettrace()
        sys.settrace(trace)
        try:
            assemble(opened.config, session, opened, {})
        finally:
            sys.settrace(earlier_trace)


# An exception between the opening of a file and its first use leaves the file to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(1, 9))])
def test_an_exception_at_any_line_is_in_the_status(
    config: RunConfig, session: Session, tmp_path: Path, first: int
) -> None:
    """At every ninth line, from one of the first nine on."""
    lines = []
    build(config, session, tmp_path / "whole", make_trace(lambda f: lines.append((f.f_code.co_filename, f.f_lineno))))
    targets = list(dict.fromkeys(lines))
    assert len(targets) > 80
    status: dict[str, Any] = {}
    for number, target in list(enumerate(targets))[first::9]:
        run = tmp_path / f"run-{number}"

        def raise_at_target(frame: FrameType, target: tuple[str, int] = target) -> None:
            if (frame.f_code.co_filename, frame.f_lineno) == target:
                raise PlantedError(f"at {Path(target[0]).name}:{target[1]}")

        with pytest.raises(PlantedError):
            build(config, session, run, make_trace(raise_at_target))
        was_claimed, status = bool(status), read_status(run)
        assert status or not (was_claimed or number >= 12), "the directory is claimed among the first lines"
        if status:
            reason = f"PlantedError: at {Path(target[0]).name}:{target[1]}"
            assert (status["state"], status["exit_code"], status["reason"]) == ("failed", 1, reason)
    live_lines = [value for value in gc.get_objects() if type(value) is Live]
    for live_line in live_lines:  # their threads keep those that no run holds
        live_line.close()
    gc.collect()


def test_a_dry_run_leaves_its_run_alone_and_is_refused_as_it_would_be(
    config: RunConfig, session: Session, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    dry = dataclasses.replace(config, run=str(run), dry_run=True)
    for changes, refusal in (
        ({"dataset": "other"}, pytest.raises(DataError, match="not the dataset that")),
        ({}, contextlib.nullcontext()),
    ):
        checkpoints.write(run, 7, **checkpoints.facts_of(config, **changes))
        write_status(run, Ending("preempted", 7, 85))
        with refusal, RunWriter(dry, (), active=False) as writing:
            assert assembly.agree(dry, session, writing)[1] is None
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "status.json"]
    with claim_run(run), pytest.raises(ConfigError, match="another process trains in"):
        check_claim(run)
    check_claim(run)  # the lock is free again


def test_a_refused_start_leaves_a_finished_run_finished(config: RunConfig, session: Session, tmp_path: Path) -> None:
    run = tmp_path / "run"
    build(config, session, run)
    status = read_status(run)
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    refusing = dataclasses.replace(config, allow=["nothing"])
    with pytest.raises(ConfigError, match="is no key"):
        build(refusing, session, run)
    assert read_status(run)["state"] == "finished"
