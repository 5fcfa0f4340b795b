# SPDX-License-Identifier: Apache-2.0
"""What people see of a training on rank 0: five lines at the start, one live line, a row for each validation, the end.

All of it, and every setting with its reason, is appended to ``log.txt``; a dry run prints the same.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, Choice, RunConfig
from harness.metrics.figures import CHOSEN_BY, print_figures, show_figure, still_improving, warnings_of
from harness.metrics.intervals import wilson
from harness.model.registry import parameters_of
from harness.rundir import layout
from harness.rundir.events import Observer, Opening
from harness.rundir.records import Ending
from harness.rundir.results import figures_name
from padless.core.atomic import append_line
from padless.core.split_names import TEST, VALIDATION
from padless.core.terminal import Live, Screen, count_noun, duration, progress_line, public, table

VALIDATION_FIGURES = ("accuracy", "f1_micro", "log_loss", "calibrated_log_loss", "perplexity")
RESULT_FIGURES = ("accuracy", "f1", "f1_micro", "log_loss")
"""Figures of a validation and of a result that are printed, as far as it has them; the others are in the report."""
MARK = "*"
"""Marks the figure by which the best epoch is chosen."""


def name_figure(values: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Title and value of a figure; of an accuracy with half the width of its interval."""
    title, cell, _ = show_figure(values, key, ())
    if key == "accuracy":
        low, high = wilson(round(values[key] * values["rows"]), values["rows"])
        cell += f" ± {(high - low) / 2:.4f}"
    return title, cell


class Log(Screen):
    """Screen output that is also appended to a file, and never ends a training: after the first failed write (full
    disk, closed terminal), it prints nothing more.
    """

    def __init__(self, file: Path | None = None, *, quiet: bool = False) -> None:
        """A ``quiet`` one writes to the ``file`` only."""
        super().__init__(quiet=quiet)
        self.file = file

    def write(self, lines: Sequence[str]) -> None:
        """Write as ``Screen`` does; after a failure, print nothing more."""
        with contextlib.suppress(OSError):
            if self.file is not None:
                append_line(self.file, "\n".join(lines))
        try:
            super().write(lines)
        except OSError:
            self.quiet = True


class Console(Observer):
    """Lines on stdout and in ``log.txt``, without a file in a dry run; in a terminal with a live line."""

    def __init__(self, config: RunConfig) -> None:
        """The run directory may be missing until the run starts."""
        self.config, self.directory = config, Path(config.run)
        self.step, self.work = 0, ""
        file = None if config.dry_run else self.directory / layout.LOG
        self.screen = Log(file, quiet=config.quiet)
        self.details = Log(file, quiet=config.quiet or not config.dry_run)
        self.selecting_figure = CHOSEN_BY[config.select] if config.task == CLASSIFIER else "log_loss"
        self.figures: dict[str, Any] = {}
        """Of the last log line."""
        self.validations: list[dict[str, Any]] = []
        """Those since this start."""
        self.live: Live | None = None

    def print_text(self, text: str) -> None:
        """Print a sentence at once."""
        self.screen.print_text(text)

    def fact(self, name: str, text: str) -> None:
        """Print a named sentence at once."""
        self.screen.fact(name, text)

    def start(self, opening: Opening) -> None:
        """Print what is trained on what, and as details all settings with their reasons."""
        self.manifest, self.total_steps, choices = opening.manifest, opening.total_steps, opening.choices
        self.first_step = self.step = opening.first_step
        self.started = self.first_step_done = time.monotonic()
        """When this start began, and when its first step was done, which counts in no estimate of time."""
        self.live = Live(self.describe_progress, Screen(quiet=True) if self.config.dry_run else self.screen)
        self.details.fact("started", time.strftime("%Y-%m-%d %H:%M:%S %z"))
        for name, text in self.outline(choices).items():
            self.screen.fact(name, text)
        for name, choice in choices.items():
            (self.screen if name == "resume" else self.details).fact(name, str(choice))

    def outline(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """What is trained on what, with what, for how long, and where to look: five lines by title."""
        config, manifest, shape = self.config, self.manifest, self.config.model
        device, precision, processes = (choices[name].value for name in ("device", "precision", "processes"))
        if device == "cuda":
            device = f"cuda ({choices['device'].reason})"
        rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
        fold = "" if config.fold is None else f", fold {config.fold} of {manifest.folds} is the validation"
        classes = f", {len(manifest.labels)} classes" if config.task == CLASSIFIER else ""
        kind = "" if config.task == CLASSIFIER else "language model, "
        cell = f"{shape.num_layers}-layer {'Bi' if shape.bidirectional else ''}LSTM"
        wide = " and a linear part" if shape.wide else ""
        parameters = f"{parameters_of(config, manifest):,} parameters"
        steps = f"{self.total_steps // config.epochs:,} steps of {config.global_batch} rows"
        return {
            "data": f"{public(config.data)}: {rows} rows{classes}{fold}",
            "model": f"{kind}{cell} {shape.embedding_dim}→{shape.hidden_size}{wide}, {parameters}",
            "training": f"{count_noun(config.epochs, 'epoch')} of {steps}",
            "device": f"{device}, {precision}, {processes} process{'' if processes == '1' else 'es'}",
            "run": f"{config.run}; {layout.LOG} there has all settings and their reasons",
        }

    def advance(self, step: int, work: str = "") -> None:
        """Note for the live line which step is done; ``work`` names work other than steps."""
        if self.step == self.first_step:
            self.first_step_done = time.monotonic()
        self.step, self.work = step, work

    def describe_progress(self) -> list[str]:
        """The live line: the share of the training that is done, and its newest figures."""
        figures, epochs, steps = self.figures, self.config.epochs, self.step - self.first_step - 1
        epoch = min(self.step * epochs // self.total_steps + 1, epochs)
        texts = [self.work or f"epoch {epoch}/{epochs}", f"step {self.step:,}/{self.total_steps:,}"]
        if figures:
            texts += [f"loss {figures['loss']:.3f}", f"{figures['tokens_per_s']:,.0f} tok/s"]
        if steps > 0 and not self.work:
            step_s = (time.monotonic() - self.first_step_done) / steps
            texts.append(f"{duration(step_s * (self.total_steps - self.step))} left")
        return [progress_line(self.step / self.total_steps, *texts)]

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Keep a training row for the live line; print a validation."""
        if kind == "train":
            self.figures = values
        elif kind == VALIDATION:
            cells = self.validation_cells(values)
            head, line = table([cells])
            if not self.validations:
                self.screen.write([head])
            self.screen.write([line])
            self.validations.append(values)

    def validation_cells(self, values: Mapping[str, Any]) -> dict[str, str]:
        """A validation by title, of the same width each time."""
        cells = {
            "epoch": f"{values['epoch']}/{self.config.epochs}".rjust(2 * len(str(self.config.epochs)) + 1),
            "loss": f"{self.figures['loss']:7.4f}" if self.figures else "–".rjust(7),
        }
        for key in VALIDATION_FIGURES:
            if key in values:
                title, cell = name_figure(values, key)
                cells[title + (MARK if key == self.selecting_figure else "")] = cell
        cells["time"] = duration(time.monotonic() - self.started).rjust(6)
        return cells | {" ": "kept" if values["best"] else "    "}

    def results(self, figures_by_split: Mapping[str, Mapping[str, Any]]) -> None:
        """Print the figures of the best weights, as in ``SPLIT.json``, and notes on how the training went; as details
        all tables.
        """
        print_figures(self.details, figures_by_split)
        for split, values in figures_by_split.items():
            shown = [" ".join(name_figure(values, key)) for key in RESULT_FIGURES if key in values]
            self.screen.fact(split, f"{', '.join(shown)}, {values['rows']:,} rows")
        for sentence in warnings_of(values):
            self.screen.fact("note", sentence)

    def close(self, ending: Ending) -> None:
        """Print where the results are and what to do next, or how to resume."""
        if self.live is None:
            return
        self.live.close()
        if ending.state == "preempted":
            self.print_text(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        elif ending.state == "failed":
            self.details.fact("failed", f"at step {ending.step:,}: {ending.reason}")
        elif not self.config.dry_run:
            self.show_end(duration(time.monotonic() - self.started))

    def show_end(self, duration: str) -> None:
        """What a finished run holds, and the commands that use it."""
        run, advice = self.directory, still_improving(self.validations, self.selecting_figure, self.config.epochs)
        if advice:
            self.screen.fact("note", advice)
        names = (layout.BUNDLE, figures_name(TEST), layout.REPORT, layout.LOG)
        results = ", ".join(name for name in names if (run / name).exists())
        self.screen.fact("finished", f"in {duration}; {run} has {results}")
        name = shlex.quote(str(run))
        if self.config.task == CLASSIFIER:
            self.screen.fact("next", f"padless report {name} --open")
            self.screen.fact("", f'padless predict {name} "a text"')
        else:
            self.screen.fact("next", f"padless train DATA --init.weights {name}")
