# SPDX-License-Identifier: Apache-2.0
"""What people see of a training on rank 0: five lines at the start, one live line, a row for each validation, the end.

All of it, and every setting with its reason, is appended to ``log.txt``; ``verbose`` prints the same.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, Choice, RunConfig
from harness.data.checks import class_rows, few_steps, imbalance, in_words
from harness.model.registry import parameters_of
from harness.rundir import layout
from harness.rundir.records import Ending
from harness.rundir.results import figures_name
from harness.scores.figures import CHOSEN_BY
from harness.scores.intervals import wilson
from harness.scores.tables import CALIBRATED, LOG_LOSS, MARK, majority, never_found, show_figures, still_improving
from harness.tracking.tracking import Sink
from preprocessing.base.atomic import append_line
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.base.terminal import Column, Live, Screen, Tone, counted, duration, table
from preprocessing.dataset.shards import Manifest

TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "log_loss": "log loss",
    "calibrated_log_loss": "calibrated",
    "perplexity": "perplexity",
}
"""Figures of a validation, as far as it has them, with their titles."""
DROPPED = {"time": 1, "log loss": 2, "F1": 3, "loss": 4, "step": 5}
"""Columns that a narrow terminal leaves out, the largest number first; never the one that selects."""


class Log(Screen):
    """Screen output that is also appended to a file, and never ends a training: after the first failed write (full
    disk, closed terminal), it prints nothing more.
    """

    def __init__(self, file: Path | None = None, *, quiet: bool = False) -> None:
        """A ``quiet`` one writes to the ``file`` only."""
        super().__init__(quiet=quiet)
        self.file = file

    def write(self, lines: Sequence[str], tone: Tone = "", head: int = 0) -> None:
        """Write as ``Screen`` does; after a failure, print nothing more."""
        with contextlib.suppress(OSError):
            if self.file is not None:
                append_line(self.file, "\n".join(lines))
        try:
            super().write(lines, tone, head)
        except OSError:
            self.quiet = True


class Console(Sink):
    """Lines on stdout and in ``log.txt``; in a terminal with colour and a live line."""

    def __init__(
        self, config: RunConfig, manifest: Manifest, total_steps: int, first_step: int = 0, *, logs: bool = False
    ) -> None:
        """``first_step``: where this start resumes. ``logs``: append to the log of the run directory, which exists."""
        self.config, self.manifest, self.directory = config, manifest, Path(config.run)
        self.total_steps, self.first_step, self.step, self.doing = total_steps, first_step, first_step, ""
        file = self.directory / layout.LOG if logs else None
        self.screen = Log(file, quiet=config.quiet)
        self.details = Log(file, quiet=config.quiet or not config.verbose)
        self.chosen = CHOSEN_BY[config.select] if config.task == CLASSIFIER else "log_loss"
        self.figures: dict[str, Any] = {}
        """Of the last log line."""
        self.validations: list[dict[str, Any]] = []
        """Those since this start."""
        self.started = self.paced_at = time.monotonic()
        """When this start began, and when its first step was done, which counts in no estimate of time."""
        self.live = Live(self.state, self.screen if logs else Screen(quiet=True))

    def say(self, text: str) -> None:
        """Print a sentence at once."""
        self.screen.say(text)

    def start(self, choices: Mapping[str, Choice]) -> None:
        """Print what is trained on what, warnings, and as details all settings with their reasons."""
        config, screen, epochs = self.config, self.screen, self.config.epochs
        self.details.fact("started", time.strftime("%Y-%m-%d %H:%M:%S %z"))
        for name, text in self.outline(choices).items():
            screen.fact(name, text)
        for name, choice in choices.items():
            (screen if name == "resume" else self.details).fact(name, str(choice))
        if config.task == CLASSIFIER:
            classes, threshold = class_rows(self.manifest, TRAIN), config.evaluation.threshold
            self.details.fact("classes", in_words(classes))
            unequal = imbalance(classes, config.optim.class_weights, threshold)
            for name, warning in ("imbalance", unequal), ("few steps", few_steps(self.total_steps // epochs, epochs)):
                if warning:
                    screen.fact(name, warning, "warn")

    def outline(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """What is trained on what, with what, for how long, and where to look: five lines by title."""
        config, manifest = self.config, self.manifest
        shape = config.model
        device, precision, processes = (choices[name].value for name in ("device", "precision", "processes"))
        rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
        fold = "" if config.fold is None else f", fold {config.fold} of {manifest.folds} is the validation"
        classifies = config.task == CLASSIFIER
        kind = "" if classifies else "language model, "
        cell = f"{shape.num_layers}-layer {'Bi' * shape.bidirectional}LSTM"
        wide = " and a linear part" * bool(shape.wide)
        return {
            "data": f"{config.data}: {rows} rows{f', {len(manifest.labels)} classes' * classifies}{fold}",
            "model": f"{kind}{cell} {shape.embedding_dim}→{shape.hidden_size}{wide}, "
            f"{parameters_of(config, manifest):,} parameters",
            "training": f"{counted(config.epochs, 'epoch')} of {self.total_steps // config.epochs:,} steps of "
            f"{config.global_batch} rows",
            "device": f"{device}, {precision}, {processes} process{'es' * (processes != '1')}",
            "run": f"{config.run}; {layout.LOG} there has all settings and their reasons",
        }

    def advance(self, step: int, doing: str = "") -> None:
        """Note for the live line which step is done; ``doing`` names work other than steps."""
        if self.step == self.first_step:
            self.paced_at = time.monotonic()
        self.step, self.doing = step, doing

    def state(self) -> tuple[float, list[str]]:
        """The live line."""
        found, epochs, done, left = self.figures, self.config.epochs, self.step - self.first_step - 1, ""
        epoch = min(self.step * epochs // self.total_steps + 1, epochs)
        if done > 0 and not self.doing:
            pace = (time.monotonic() - self.paced_at) / done
            left = f"{duration(pace * (self.total_steps - self.step))} left"
        texts = [self.doing or f"epoch {epoch}/{epochs}", f"step {self.step:,}/{self.total_steps:,}", left]
        if found:
            texts[2:2] = [f"loss {found['loss']:.3f}", f"{found['tokens_per_s']:,.0f} tok/s"]
            texts.append(f"wait {found['data_wait']:.1%}")
        return self.step / self.total_steps, [*filter(None, texts)]

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Keep a training row for the live line; print a validation."""
        if kind == "train":
            self.figures = values
        elif kind == VALIDATION:
            row = self.row(values)
            columns = [Column(title, weight=DROPPED.get(title, 0)) for title in row]
            head, line = table(columns, [row], self.screen.width)
            if not self.validations:
                if self.config.task == CLASSIFIER:
                    self.screen.fact("log loss", LOG_LOSS)
                if self.chosen == "calibrated_log_loss":
                    self.screen.fact(f"calibrated{MARK}", f"{CALIBRATED}; {MARK} chooses the best epoch")
                self.screen.write([head], "head")
            self.screen.write([line], "good" if values["best"] else "")
            self.validations.append(values)

    def row(self, values: Mapping[str, Any]) -> dict[str, str]:
        """A validation by title, of the same width each time."""
        row = {
            "epoch": f"{values['epoch']}/{self.config.epochs}".rjust(2 * len(str(self.config.epochs)) + 1),
            "step": f"{values['step']:,}".rjust(len(f"{self.total_steps:,}")),
            "loss": f"{self.figures['loss']:7.4f}" if self.figures else "–".rjust(7),
        }
        for key in (key for key in TITLES if key in values):
            number = f"{values[key]:,.{1 if 'perplexity' in key else 4}f}"
            if key == "accuracy":
                low, high = wilson(round(values[key] * values["rows"]), values["rows"])
                number += f" ± {(high - low) / 2:.4f}"
            row[TITLES[key] + MARK * (key == self.chosen)] = number
        row["time"] = duration(time.monotonic() - self.started).rjust(6)
        return row | {" ": "best" if values["best"] else "    "}

    def results(self, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Print the figures of the best weights, and notes on how the training went; as details all tables.

        ``measured``: split -> figures, as in ``SPLIT.json``.
        """
        show_figures(self.details, measured)
        for split, values in measured.items():
            low, high = values["intervals"]["accuracy"]
            accuracy = f"accuracy {values['accuracy']:.4f} ± {(high - low) / 2:.4f}, F1 {values['f1']:.4f}"
            self.screen.fact(split, f"{accuracy}, log loss {values['log_loss']:.4f}, {values['rows']:,} rows")
        for sentence in filter(None, [majority(values), never_found(values["per_class"])]):
            self.screen.fact("note", sentence, "warn")

    def close(self, ending: Ending) -> None:
        """Print where the results are and what to do next, or how to resume."""
        self.live.close()
        run, took = self.directory, duration(time.monotonic() - self.started)
        if ending.state == "preempted":
            self.say(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        elif ending.state == "failed":
            self.details.fact("failed", f"at step {ending.step:,}: {ending.reason}")
        else:
            if advice := still_improving(self.validations, self.chosen, self.config.epochs):
                self.screen.fact("note", advice, "warn")
            names = (layout.BUNDLE, figures_name(TEST), layout.REPORT, layout.LOG)
            there = ", ".join(name for name in names if (run / name).exists())
            self.screen.fact("finished", f"in {took}; {run} has {there}", "good")
            name = shlex.quote(str(run))
            then = [f"padless train DATA --init.weights {name}"]
            if self.config.task == CLASSIFIER:
                then = [f"padless report {name} --open", f'padless predict {name} "a text"']
            for title, command in zip(("next", ""), then, strict=False):
                self.screen.fact(title, command)
