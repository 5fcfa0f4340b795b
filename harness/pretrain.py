# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``accelerate launch -m harness.pretrain``: a language model, for a classifier to start from."""

from __future__ import annotations

from harness.config import FIRST_KEYS, LANGUAGE_MODEL, RunConfig
from harness.ranks import devices, stopping
from harness.ranks.stopping import leave, run_rank
from harness.training.rules import resolve
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.base.help_page import Page

PROG = "accelerate launch -m harness.pretrain"
PAGE = Page(
    usage=f"{PROG} [--config FILE] [--key value …]",
    about="Learn a language model from the training and unlabelled rows of a dataset directory, for a classifier to "
    "start from. python -m harness launch --task language_model is the same with checks before any process starts.",
    first=(*FIRST_KEYS, "language_model.candidates"),
    example=f"{PROG} --data data/mine --run runs/mine-pretrained",
)


def main(argv: list[str]) -> int:
    """Pretrain on this rank; returns the exit code."""
    stopping.install()
    words = [f"--task={LANGUAGE_MODEL}", *argv]
    recipe = cli.parse(RunConfig, words, prog=PROG, page=PAGE, in_front=devices.LAUNCHER_OPTIONS)
    if recipe.task != LANGUAGE_MODEL:
        raise ConfigError(f"task: {recipe.task}: accelerate launch -m harness.train trains it; here: {LANGUAGE_MODEL}")
    resolved = resolve(recipe)
    from harness.ranks.session import open_session
    from harness.report.sinks import ReportSink
    from harness.training.assembly import open_run
    from harness.training.writer import Sink

    config = resolved.config

    def listeners(writer: Sink) -> tuple[Sink, ...]:
        return (ReportSink(config.run),)

    joined = open_session(config.device, config.precision, config.timeout_s, config.threads)
    with joined as session, open_run(config, session, listeners, resolved.reasons) as run:
        if config.dry_run:
            run.rehearse()
        else:
            run.train()
    return 0


if __name__ == "__main__":
    leave(run_rank(main))
