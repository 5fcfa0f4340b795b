# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the files of each run directory of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.baselines.measured import Comparison, compare_linear
from harness.config import LANGUAGE_MODEL
from harness.data.run_rows import hold_out
from harness.inference.explanation import as_html, split_text
from harness.metrics.figures import CHOSEN_BY, still_improving
from harness.rundir.bundle_files import find_info
from harness.rundir.json_files import Line
from harness.rundir.layout import BUNDLE, METRICS, THROUGHPUT
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_environment, read_run_config, read_status
from harness.rundir.results import read_measured
from padless.core.errors import DataError, UserError
from padless.core.split_names import VALIDATION
from padless.core.terminal import public_values
from preprocessing.dataset.remote import local
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import find_originals, read_data
from preprocessing.text.encoder import Encoder, spans_of
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary


class RunFacts:
    """A run directory in memory. Missing files are empty or None."""

    def __init__(self, directory: str | Path) -> None:
        """Read it. Raises ``DataError`` if it is not a run, has no metrics, or is damaged."""
        self.directory = Path(directory)
        self.name = self.directory.resolve().name
        self.config = read_run_config(directory)
        lines = read_log(directory)
        if not lines:
            raise DataError(
                f"{self.directory / METRICS}: holds no metrics: this run has logged nothing yet; wait for its first "
                "log line, or name another run"
            )
        self.train = [line for line in lines if line["kind"] == "train"]
        self.validation = [line for line in lines if line["kind"] == VALIDATION]
        throughput = read_log(directory, THROUGHPUT)
        seconds = [line["seconds"] for line in throughput if "seconds" in line]
        self.training_s = seconds[-1] if seconds else None
        """Time to the last validation."""
        self.environment = public_values(read_environment(directory))
        self.status = public_values(read_status(directory))
        self.state = self.status.get("state", "unknown")
        self.step = self.status.get("step") or (self.train[-1]["step"] if self.train else 0)
        measured = read_measured(self.directory)
        self.split = measured.split if measured is not None else None
        self.figures = measured.figures if measured is not None else None
        """Figures on the test split, else on validation, if any."""
        info = find_info(self.directory / BUNDLE)
        self.fingerprint = info.dataset if info is not None else None
        """Fingerprint of the dataset of the training."""
        self.manifest, self.manifest_note = find_manifest(self.config, self.fingerprint)
        """Manifest of that dataset; or why there is none: the directory is missing or holds another dataset."""
        self.linear: dict[str, dict[str, Any]] = {}
        """Figures of the TF-IDF baseline on the same dataset, by split, from ``DATA/baseline``."""
        self.comparison: Comparison | None = None
        """The comparison of the run with the TF-IDF baseline, if possible."""
        self.linear_note: str | None = None
        """Why there is no comparison, although the TF-IDF baseline was measured."""
        try:
            self.linear, self.comparison = compare_linear(self.directory, self.config["data"])
        except DataError as error:
            self.linear_note = str(error)

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty if unknown."""
        if self.figures is not None:
            return list(self.figures["labels"])
        return list(self.manifest.labels) if self.manifest is not None else []

    @property
    def is_pretraining(self) -> bool:
        """Whether it trains a language model."""
        return self.config.get("task") == LANGUAGE_MODEL

    @property
    def has_label_sets(self) -> bool:
        """Whether a text may have several labels, as far as figures show it."""
        return "f1_micro" in (self.figures or self.best_validation or {})

    @property
    def best_validation(self) -> Line | None:
        """The line of the best validation."""
        return next((line for line in reversed(self.validation) if line.get("best")), None)

    @property
    def advice(self) -> str | None:
        """Whether a finished run should have had more epochs."""
        if self.state != "finished":
            return None
        chosen_by = CHOSEN_BY["loss" if self.is_pretraining else self.config["select"]]
        return still_improving(self.validation, chosen_by, self.config["epochs"])


def find_manifest(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the run's dataset, or why it is missing."""
    data = config["data"]
    try:
        manifest = read_data(data)
        if fingerprint not in (None, manifest.fingerprint):
            raise DataError(f"{data} now holds another dataset (fingerprint {manifest.fingerprint[:12]})")
        return hold_out(manifest, config.get("fold"), data), None
    except DataError as error:
        return None, str(error)


def mistakes_of(
    mistakes: Sequence[dict[str, Any]], manifest: Manifest | None, data: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The ``mistakes`` of ``SPLIT.json`` on the dataset ``data``, each with its original ``text`` as HTML, or what the
    model has read of it; and the reason why originals are missing, if some are.

    Token positions are found as in ``padless explain``; text that the model did not see is not marked.
    """
    text_by_row, reason = find_originals(manifest, [mistake["row"] for mistake in mistakes])
    encoder, described = None, []
    if manifest is not None and text_by_row:
        try:
            vocabulary = Vocabulary.read(local(data) / VOCABULARY)
            encoder = Encoder(TextPipeline.from_json(manifest.text), vocabulary)
        except UserError as error:  # a package is not installed
            reason = str(error)
    for mistake in mistakes:
        tokens, weights = mistake["tokens"], mistake["weights"]
        segments = [segment for pair in zip(tokens, weights, strict=True) for segment in (pair, (" ", 0.0))]
        if encoder is not None and mistake["row"] in text_by_row:
            original = text_by_row[mistake["row"]]
            segments = split_text(original, spans_of(original, tokens, encoder.tokenizer), weights)
        described.append({**mistake, "text": as_html(segments)})
    return described, reason
