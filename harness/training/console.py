# SPDX-License-Identifier: Apache-2.0
"""What people see of a training on rank 0: five lines at the start, one live line, a row for each validation, the end.

All of it, and every setting with its reason, is appended to ``log.txt``; ``verbose`` prints the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, RunConfig
from harness.data.checks import TEST, TRAIN, VALIDATION, class_rows, few_steps, imbalance, in_words
from harness.model.registry import parameters_of
from harness.ranks.precision import Choice
from harness.rundir import layout
from harness.rundir.metrics_log import read_log
from harness.rundir.results import figures_name
from harness.scores.figures import CHOSEN_BY
from harness.scores.intervals import wilson
from harness.scores.tables import MARK, never_found, show_figures, verdicts
from harness.training.writer import Ending, Sink
from preprocessing.base.atomic import append_line
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import (
    FACT_INDENT,
    LONGEST,
    Column,
    Live,
    Screen,
    Tone,
    counted,
    duration,
    shortened,
    table,
)
from preprocessing.dataset.shards import Manifest

FIGURES = ["accuracy", "f1", "log_loss", "calibrated_log_loss"]
FIGURES += ["perplexity", "perplexity_forward", "perplexity_backward"]
"""Of a validation, as far as it has them."""
DROPPED = {"time": 1, "log_loss": 2, "f1": 3, "loss": 4, "step": 5}
"""Columns that a narrow terminal leaves out, the largest number first."""


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
        if self.file is not None and lines:
            with contextlib.suppress(OSError):
                append_line(self.file, "\n".join(lines))
        try:
            super().write(lines, tone, head)
        except OSError:
            self.quiet = True
            with contextlib.suppress(OSError, ValueError):  # else its buffer fails again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Console(Sink):
    """Lines on stdout and in ``log.txt``; in a terminal with colour and a live line."""

    def __init__(
        self, config: RunConfig, manifest: Manifest, total_steps: int, first_step: int = 0, *, logs: bool = False
    ) -> None:
        """``first_step``: where this start resumes. ``logs``: append to the log of the run directory, which exists."""
        self.config, self.manifest, self.directory = config, manifest, Path(config.run)
        self.total_steps, self.step, self.doing = total_steps, first_step, ""
        file = self.directory / layout.LOG if logs else None
        self.screen = Log(file, quiet=config.quiet)
        self.details = Log(file, quiet=config.quiet or not config.verbose)
        self.figures: dict[str, Any] = {}
        """Of the last log line."""
        self.noted: set[str] = set()
        self.headed = False
        self.started = time.monotonic()
        self.paced: tuple[float, int] | None = None
        """When the first step of this start was done, and its number: it counts in no estimate of time."""
        self.live = Live(self.state, self.screen if logs else Screen(quiet=True))

    def say(self, text: str) -> None:
        """Print a sentence at once."""
        self.screen.say(text)

    def start(self, choices: Mapping[str, Choice]) -> None:
        """Print what is trained on what, warnings, and as details all settings with their reasons."""
        config, screen, epochs = self.config, self.screen, self.config.epochs
        self.details.fact("started", time.strftime("%Y-%m-%d %H:%M:%S %z"))
        for name, text in outline(config, self.manifest, self.total_steps, choices).items():
            screen.fact(name, shortened(text, min(screen.width, LONGEST) - FACT_INDENT))
        for name, choice in choices.items():
            (screen if name == "resume" else self.details).fact(name, str(choice))
        if config.task == CLASSIFIER:
            classes, threshold = class_rows(self.manifest, TRAIN), config.evaluation.threshold
            self.details.fact("classes", in_words(classes))
            if warning := imbalance(classes, config.optim.class_weights, threshold):
                screen.fact("imbalance", warning, "warn")
            if warning := few_steps(self.total_steps // epochs, epochs):
                screen.fact("few steps", warning, "warn")

    def advance(self, step: int, doing: str = "") -> None:
        """Note for the live line which step is done; ``doing`` names work other than steps."""
        if self.paced is None and step > self.step:
            self.paced = time.monotonic(), step
        self.step, self.doing = step, doing

    def state(self) -> tuple[float, list[str]]:
        """The live line."""
        found, per_epoch = self.figures, self.total_steps // self.config.epochs
        epoch = min(self.step // per_epoch + 1, self.config.epochs)
        texts = [self.doing or f"epoch {epoch}/{self.config.epochs}", f"step {self.step:,}/{self.total_steps:,}"]
        texts += [f"loss {found['loss']:.3f}", f"{found['tokens_per_s']:,.0f} tok/s"] if found else []
        if self.paced is not None and self.step > self.paced[1] and not self.doing:
            pace = (time.monotonic() - self.paced[0]) / (self.step - self.paced[1])
            texts.append(f"{duration(pace * (self.total_steps - self.step))} left")
        return self.step / self.total_steps, [*texts, *([f"wait {found['data_wait']:.1%}"] if found else [])]

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Keep a training row for the live line, and print each of its warnings once; print a validation."""
        if kind == "train":
            self.figures = values
            topic = (values["verdict"] or "").partition(" ")[0]
            if topic and topic not in self.noted:
                self.noted.add(topic)
                self.screen.fact("note", values["verdict"], "warn")
        elif kind == VALIDATION:
            chosen = CHOSEN_BY[self.config.select] if self.config.task == CLASSIFIER else "log_loss"
            row = self.row(values)
            columns = [
                Column(key=key, title=title_of(key) + MARK * (key == chosen), weight=DROPPED.get(key, 0)) for key in row
            ]
            head, line = table(columns, [row], self.screen.width)
            self.screen.write([] if self.headed else [head], "head")
            self.screen.write([line], "good" if values["best"] else "")
            self.headed = True

    def row(self, values: Mapping[str, Any]) -> dict[str, str]:
        """A validation by column, of the same width each time."""
        shown = {key: f"{values[key]:,.{1 if 'perplexity' in key else 4}f}" for key in FIGURES if key in values}
        if "accuracy" in shown:
            low, high = wilson(round(values["accuracy"] * values["rows"]), values["rows"])
            shown["accuracy"] += f" ± {(high - low) / 2:.4f}"
        epochs, steps = str(self.config.epochs), f"{self.total_steps:,}"
        loss = f"{self.figures['loss']:.4f}" if self.figures else "–"
        return {
            "epoch": f"{values['epoch']:>{len(epochs)}}/{epochs}",
            "step": f"{values['step']:>{len(steps)},}",
            "loss": loss.rjust(7),
            **shown,
            "time": duration(time.monotonic() - self.started).rjust(6),
            " ": "best" if values["best"] else "    ",
        }

    def rehearsal(self, step_s: float, rows: int, memory_bytes: int, full_s: float) -> None:
        """Print what a dry run measured: seconds and rows of the longest step, and the estimated time of a full run."""
        self.screen.fact("dry run", f"longest step ({rows} rows): {step_s * 1e3:,.0f} ms")
        self.screen.fact("memory", f"{memory_bytes / 2**20:,.0f} MiB at most in one process")
        self.screen.fact("full run", f"about {duration(full_s)} of training ({self.total_steps:,} steps)")

    def results(self, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Print the figures of the best weights, and notes on how the training went; as details all tables.

        ``measured``: split -> figures, as in ``SPLIT.json``.
        """
        show_figures(self.details, measured)
        for split, values in measured.items():
            low, high = values["intervals"]["accuracy"]
            f1 = f"{'F1' if len(values['labels']) == 2 else 'macro F1'} {values['f1']:.4f}"
            accuracy = f"accuracy {values['accuracy']:.4f} ± {(high - low) / 2:.4f}"
            said = f"{accuracy}, {f1}, log loss {values['log_loss']:.4f}, {values['rows']:,} rows"
            self.screen.fact(split, said)
        last = list(measured.values())[-1]
        try:
            notes = verdicts(read_log(self.directory), self.config.epochs, class_rows(self.manifest, VALIDATION))
        except DataError as error:
            notes = [f"warning: no notes on the validations ({error})"]
        for sentence in filter(None, [*notes, never_found(last["per_class"])]):
            self.screen.fact("note", sentence, "warn")

    def pretrained(self) -> None:
        """Print how to use a language model's best weights."""
        self.screen.fact("next", f"a classifier starts from its weights with --init.weights {self.directory}")

    def close(self, ending: Ending) -> None:
        """Print where the results are and what to do next, or how to resume."""
        self.live.close()
        if ending.state == "preempted":
            self.say(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        elif ending.state == "failed":
            self.details.fact("failed", f"at step {ending.step:,}: {ending.reason}")
        if ending.state != "finished":
            return
        names = (layout.BUNDLE, figures_name(TEST), layout.REPORT, layout.LOG)
        there = ", ".join(name for name in names if (self.directory / name).exists())
        self.screen.fact(
            "finished", f"in {duration(time.monotonic() - self.started)}; {self.directory} has {there}", "good"
        )
        if self.config.task == CLASSIFIER:
            run = self.directory
            self.screen.fact("next", f'padless report {run} --open; padless predict {run} "a text"')


def outline(config: RunConfig, manifest: Manifest, total_steps: int, choices: Mapping[str, Choice]) -> dict[str, str]:
    """What is trained on what, with what, for how long, and where to look: five lines by title."""
    shape, tokens = config.model, config.global_batch_tokens
    device, precision, processes = (choices[name].value for name in ("device", "precision", "processes"))
    rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
    fold = "" if config.fold is None else f", fold {config.fold} of {manifest.folds} is the validation"
    classes, kind = (f", {len(manifest.labels)} classes", "") if config.task == CLASSIFIER else ("", "language model, ")
    cell = f"{shape.num_layers}-layer {'Bi' if shape.bidirectional else ''}{shape.cell.upper()}"
    wide = " and a linear part" if shape.wide else ""
    size = f"{config.global_batch} rows" if tokens is None else f"at most {tokens:,} tokens, padding included"
    return {
        "data": f"{config.data}: {rows} rows{classes}{fold}",
        "model": f"{kind}{cell} {shape.embedding_dim}→{shape.hidden_size}{wide}, "
        f"{parameters_of(config, manifest):,} parameters",
        "training": f"{counted(config.epochs, 'epoch')} of {total_steps // config.epochs:,} steps of {size}",
        "device": f"{device}, {precision}, {processes} process{'es' * (processes != '1')}",
        "run": f"{config.run}; {layout.LOG} there has all settings and their reasons",
    }


def title_of(key: str) -> str:
    """The title of a column."""
    return key.removesuffix("_log_loss").removeprefix("perplexity_").replace("_", " ").replace("f1", "F1")
