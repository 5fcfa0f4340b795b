# SPDX-License-Identifier: Apache-2.0
"""Small runs to export: a bundle with random weights, its dataset beside it, figures as an evaluation leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.__main__ import main
from harness.rundir.layout import BUNDLE, CONFIG
from harness.rundir.results import write_figures
from harness.scores.calibration import Decision
from harness.scores.figures import figures
from preprocessing.base import cli
from preprocessing.dataset.shards import read_manifest
from tests.bundles import write_drawn
from tests.datasets import write_dataset

TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]


def make_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run directory ``root/run`` on the dataset ``root/data``, with figures of a test split."""
    write_dataset(root / "data", {"train": 50, "validation": 30, "test": 10}, num_classes=num_classes, seed=seed)
    manifest = read_manifest(root / "data")
    facts = {"vectors": {"source": "/home/somebody/vectors.npy", "sha256": "0"}}
    write_drawn(root / "run" / BUNDLE, root / "data", seed=seed, facts=facts, **shape)
    config = {"data": str(root / "data"), "epochs": 3, "seed": seed, "optim": {"lr": 0.01}}
    (root / "run" / CONFIG).write_text(yaml.safe_dump(config))
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, 10)
    scores = random.normal(size=10 if num_classes == 2 else (10, num_classes))
    lengths, unknown = np.arange(1, 11), np.zeros(10, np.int64)
    found = figures(
        scores, labels, lengths=lengths, unknown=unknown, names=manifest.labels, decision=Decision(0.5, 0.4)
    )
    head = {"split": "test", "dataset": manifest.fingerprint, "step": 7}
    write_figures(root / "run", "test", head | found | {"rows": 10})
    return root / "run"


def export(*arguments: object) -> int:
    """Exit code of the command."""
    return cli.run(main, ["export", *map(str, arguments)])
