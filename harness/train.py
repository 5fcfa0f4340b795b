# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.train``: parse, build, fit, close."""

from __future__ import annotations

from harness.config import RunConfig
from harness.ranks import preemption
from harness.ranks.exit import leave, run_rank
from preprocessing.base import cli

PROG = "accelerate launch -m harness.train"
DESCRIPTION = "Train an LSTM text classifier on a dataset directory; any key below may also stand in a --config file."


def main(argv: list[str]) -> int:
    """Train on this rank; returns the exit code."""
    preemption.install()
    config = cli.parse(RunConfig, argv, prog=PROG, description=DESCRIPTION)
    from harness.ranks.session import open_session
    from harness.report.beside import BaselineSink
    from harness.report.sink import ReportSink
    from harness.training.assembly import assemble
    from harness.training.writer import RunWriter

    with (
        open_session(config.device, config.precision, config.timeout_s) as session,
        RunWriter(config, active=session.world.is_main and not config.dry_run) as writer,
    ):
        if writer.active:
            writer.sinks.add(ReportSink(config.run))
            writer.sinks.add(BaselineSink(config.run, config.data, writer.sinks))
        run = assemble(config, session, writer)
        if config.dry_run:
            run.rehearse()
        else:
            run.train()
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
