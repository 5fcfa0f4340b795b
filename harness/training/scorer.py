# SPDX-License-Identifier: Apache-2.0
"""Scores of a run's own splits: at each validation, and once on the test split when training is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.batch import Layout
from harness.data.checks import TEST
from harness.data.residency import OpenData
from harness.inference.bundle import read_bundle
from harness.inference.evaluation import assess, numbers_of, write_results
from harness.inference.scoring import Scores, score
from harness.model.classifier import Classifier
from harness.ranks.session import Session
from harness.rundir.layout import BUNDLE
from harness.rundir.storage import storage
from harness.training.sinks import Sink


@dataclass(frozen=True)
class Scorer:
    """What scoring needs beside a model and a split's name."""

    session: Session
    data: OpenData
    layout: Layout
    batch_rows: int
    """Rows per batch and process."""

    def __call__(self, split: str, classifier: Classifier, pause: Callable[[], None]) -> Scores:
        """Scores of a split, on every rank; ``pause`` is called on all ranks every few batches and may raise."""
        return score(
            classifier,
            self.data.splits[split],
            self.session.world,
            batch_rows=self.batch_rows,
            layout=self.layout,
            device=self.session.device,
            pause=pause,
            guard=self.data.guard.check_sizes,
        )

    def test(self, directory: Path, step: int, sinks: Sink, pause: Callable[[], None]) -> dict[str, Any]:
        """Load the best weights of a run and measure them, once, on the test split if the dataset has one.

        ``step`` is the run's last one. Every rank calls it; rank 0 writes, and is given all figures.
        """
        world, data = self.session.world, self.data
        with world.together("loading the best weights"):
            bundle = read_bundle(directory / BUNDLE)
        world.handshake({"weights": bundle.info.weights_sha256})
        if TEST not in data.splits:
            sinks.say(f"no test: {data.placement.data} has no test split")
            return {}
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        scores = self(TEST, classifier, pause)
        values: dict[str, Any] = {}
        with world.together("writing the test's results"), storage(directory):
            if world.is_main:
                values = assess(scores, bundle, data.splits[TEST])
                write_results(directory, TEST, scores, data.manifest, values)
        if world.is_main:
            sinks.log(TEST, {"step": step, **numbers_of(values)})
        return values
