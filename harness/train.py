# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.train``: parse, build, fit, close."""

from __future__ import annotations

from harness.config import RunConfig
from harness.ranks import stopping
from harness.ranks.devices import cards
from harness.ranks.stopping import leave, run_rank
from harness.training.rules import Resolved, resolve
from preprocessing.base import cli


def main(argv: list[str]) -> int:
    """Train on this rank; returns the exit code."""
    stopping.install()
    config = cli.parse(RunConfig, argv, prog="accelerate launch -m harness.train")
    fit(resolve(config, lambda: cards_here(config)))
    return 0


def cards_here(config: RunConfig) -> int | None:
    """The number of GPUs that train, as this rank sees it; None on CPUs."""
    from harness.ranks.distributed import launched_local_world_size, launched_world_size

    return cards(config.device, launched_local_world_size(), launched_world_size())


def fit(resolved: Resolved, *, reports: bool = True) -> None:
    """Build, fit and close on this rank; with ``reports`` also the report, and the comparison with a linear model."""
    config = resolved.config
    from harness.ranks.session import open_session
    from harness.report.sinks import ReportSink
    from harness.tracking.tracking import Sink
    from harness.training.assembly import open_run

    def listeners(writer: Sink) -> tuple[Sink, ...]:
        return (ReportSink(config, writer),) if reports else ()

    joined = open_session(config.device, config.precision, config.timeout_s, config.threads)
    with joined as session, open_run(config, session, listeners, resolved.reasons) as run:
        if config.dry_run:
            run.rehearse()
        else:
            run.train()


if __name__ == "__main__":
    leave(run_rank(main))
