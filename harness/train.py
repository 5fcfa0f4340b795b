# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.train``: parse, build, fit, close."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from harness.config import Choice, RunConfig, name_run
from harness.distributed.devices import count_cards
from harness.distributed.stopping import AlreadyFinished, run_rank
from harness.output.tracking import check_tracker
from harness.rundir.events import Observer, Observers
from harness.rundir.records import LAUNCH_ID
from harness.training.rules import CHOICES, ResolvedConfig, resolve_config
from padless.core import cli
from padless.core.processes import signal_on_parents_death
from padless.core.signals import end_process, listen_in_rank


def main(argv: list[str]) -> int:
    """Train on this rank; returns the exit code."""
    listen_in_rank()  # before torch is imported: a signal may come that early
    if LAUNCH_ID in os.environ:
        # Ranks have sessions of their own: a SIGKILL of the launcher alone would leave them training without it.
        signal_on_parents_death("SIGUSR2")
    fit(read_resolved(argv))
    return 0


def read_resolved(argv: list[str]) -> ResolvedConfig:
    """The configuration of this training. ``padless train`` has resolved it; under bare ``accelerate launch``, each
    rank does so, and ranks compare what they have.
    """
    config = name_run(cli.parse(RunConfig, argv, prog="accelerate launch -m harness.train"))
    if CHOICES not in os.environ:
        from harness.distributed.world import read_local_world_size, read_world_size

        return resolve_config(config, lambda: count_cards(config.device, read_local_world_size(), read_world_size()))
    processes, reasons = json.loads(os.environ[CHOICES])
    return ResolvedConfig(config, {key: Choice(*choice) for key, choice in reasons.items()}, processes)


def fit(resolved: ResolvedConfig, *, reports: bool = True) -> None:
    """Build, fit and close on this rank; with ``reports`` also the test, the report and the baseline."""
    config = resolved.config
    from harness.distributed.session import open_session
    from harness.training.assembly import open_run

    observers = observers_of(config, reports=reports)
    joined = open_session(config.device, config.precision, config.timeout_s, config.threads, chosen=resolved.processes)
    leaving = suppress(AlreadyFinished)
    with leaving, joined as session, open_run(config, session, observers, resolved.reasons) as run:
        if config.dry_run:
            run.rehearse()
        else:
            run.train(tests=reports)


def observers_of(config: RunConfig, *, reports: bool) -> list[Observer]:
    """The receivers of a run's events on rank 0. Raises ``ConfigError`` for a tracker that cannot be used."""
    from harness.output.console import Console
    from harness.output.report import RunReport
    from harness.output.tracking import TrackerObserver

    check_tracker(config.tracking)
    if config.dry_run:
        return [Console(config)]
    followers = [Console(config), TrackerObserver(config)]
    return [RunReport(config, Observers(followers)), *followers] if reports else followers


if __name__ == "__main__":
    end_process(run_rank(main))
