# SPDX-License-Identifier: Apache-2.0
"""``suspects FILE``: precision and recall of ``padless suspects`` where some labels are replaced at random.

A share of the labels, drawn by each seed, becomes another class. Rows are found as the command finds them, by its
TF-IDF baseline out of fold; beside it are simpler rules with the same probabilities.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measuring import read_frame
from harness.baseline.out_of_fold import predict_out_of_fold, read_labelled
from harness.scores.label_errors import find_label_errors
from harness.scores.metrics import rank_within
from preprocessing.base import atomic
from preprocessing.base.schema import AtLeast1, Share
from preprocessing.dataset.shards import read_manifest


@dataclass(frozen=True, kw_only=True)
class SuspectsBenchmark:
    """Precision and recall of the rows whose label is probably wrong, where labels are replaced at random."""

    SUBJECT = ("file",)
    file: str
    """Labelled file with columns text and label."""
    noise: Share = 0.05
    """Share of the labels that are replaced."""
    seeds: AtLeast1 = 3
    """Number of seeds of the noise; figures are their mean."""
    json: bool = False
    """Print JSON instead of a table."""


def main(config: SuspectsBenchmark) -> None:
    """Measure each seed, then show the means."""
    frame = read_frame(Path(config.file)).astype(str)
    lines = [line for seed in range(config.seeds) for line in measure_seed(frame, config.noise, seed)]
    table = pd.DataFrame(lines).groupby("rule", sort=False).mean().round(3).reset_index()
    print(json.dumps(table.to_dict("records"), indent=2) if config.json else table.to_string(index=False))


def replace_labels(labels: pd.Series, noise: float, seed: int) -> np.ndarray:
    """The labels with a share of them replaced by another class each."""
    generator = np.random.default_rng(seed)
    classes, numbers = np.unique(labels, return_inverse=True)
    rows = generator.choice(len(labels), round(noise * len(labels)), replace=False)
    numbers[rows] = (numbers[rows] + generator.integers(1, len(classes), len(rows))) % len(classes)
    replaced: np.ndarray = classes[numbers]
    return replaced


def measure_seed(frame: pd.DataFrame, noise: float, seed: int) -> list[dict[str, Any]]:
    """Rows found, precision and recall of each rule for one draw of the noise; seconds from shards to suspects."""
    noisy = frame.assign(label=replace_labels(frame["label"], noise, seed))
    is_replaced = (noisy["label"] != frame["label"]).to_numpy()
    with atomic.temporary_folder() as folder:
        noisy.to_parquet(folder / "noisy.parquet", index=False)
        words = ["prepare", folder / "noisy.parquet", "-o", folder / "data", "--quiet"]
        # cannot hang: the waits of a preparation have limits
        subprocess.run([sys.executable, "-m", "preprocessing", *map(str, words)], check=True, capture_output=True)
        start_s, manifest = time.monotonic(), read_manifest(folder / "data")
        rows, blocks = read_labelled(folder / "data", manifest)
        chances = predict_out_of_fold(folder / "data", manifest, rows, blocks)
    labels, is_replaced = rows["label"].to_numpy(), is_replaced[rows["row"] - 1]
    is_error, seconds = find_label_errors(labels, chances), time.monotonic() - start_s
    label_chances = chances[np.arange(len(labels)), labels]
    order = np.argsort(label_chances, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = rank_within(labels[order])
    rules = {
        "padless suspects": is_error,
        "as many, the same share of each label": ranks < is_error.mean() * np.bincount(labels)[labels],
        "another class is more probable": chances.argmax(axis=1) != labels,
    }
    return [
        {
            "rule": rule,
            "rows": int(is_listed.sum()),
            "precision": float(is_replaced[is_listed].mean()),
            "recall": float(is_listed[is_replaced].mean()),
            "seconds": seconds,
        }
        for rule, is_listed in rules.items()
    ]
