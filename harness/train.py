# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.train``: parse, build, fit, close."""

from __future__ import annotations

from harness.config import Recipe
from harness.ranks import preemption
from harness.ranks.exit import leave, run_rank
from harness.training.rules import resolve
from preprocessing.base import cli

PROG = "accelerate launch -m harness.train"
DESCRIPTION = "Train an LSTM text classifier on a dataset directory; any key below may also stand in a --config file."


def main(argv: list[str]) -> int:
    """Train on this rank; returns the exit code."""
    preemption.install()
    resolved = resolve(cli.parse(Recipe, argv, prog=PROG, description=DESCRIPTION))
    config = resolved.config
    from harness.ranks.session import open_session
    from harness.report.beside import BaselineSink
    from harness.report.sink import ReportSink
    from harness.training.assembly import open_run
    from harness.training.sinks import Sink, Sinks

    def listeners(sinks: Sinks) -> tuple[Sink, ...]:
        return ReportSink(config.run), BaselineSink(config.run, config.data, sinks)

    joined = open_session(config.device, config.precision, config.timeout_s)
    with joined as session, open_run(config, session, listeners, resolved.reasons) as run:
        if config.dry_run:
            run.rehearse()
        else:
            run.train()
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
