# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.train``: parse, build, fit, close."""

from __future__ import annotations

from harness.config import CLASSIFIER, FIRST_KEYS, RunConfig
from harness.ranks import devices, stopping
from harness.ranks.stopping import leave, run_rank
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.help_page import Page

PROG = "accelerate launch -m harness.train"
PAGE = Page(
    usage=f"{PROG} [--config FILE] [--key value …]",
    about="Train an LSTM text classifier on a dataset directory. python -m harness launch is the same with checks "
    "before any process starts, and with true exit codes.",
    first=FIRST_KEYS,
    example=f"{PROG} --data data/mine --run runs/mine",
)


def main(argv: list[str]) -> int:
    """Train on this rank; returns the exit code."""
    stopping.install()
    recipe = cli.parse(RunConfig, argv, prog=PROG, page=PAGE, in_front=devices.LAUNCHER_OPTIONS)
    resolved = resolve(recipe)
    config = resolved.config
    from harness.ranks.session import open_session
    from harness.report.sinks import BaselineSink, ReportSink
    from harness.training.assembly import open_run
    from harness.training.writer import Sink

    def listeners(writer: Sink) -> tuple[Sink, ...]:
        report = ReportSink(config.run)
        return (report, BaselineSink(config.run, config.data, writer)) if config.task == CLASSIFIER else (report,)

    joined = open_session(config.device, config.precision, config.timeout_s, config.threads)
    with joined as session, open_run(config, session, listeners, resolved.reasons) as run:
        if config.dry_run:
            run.rehearse()
        else:
            run.train()
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
