# SPDX-License-Identifier: Apache-2.0
"""``ranking FILE``: labels needed for the accuracy of so many random ones, by the rows that ``predict --rank`` chooses.

A TF-IDF baseline learns from some random rows, chooses a batch of the others, learns from their labels too, and so on,
to ``random`` rows. Beside the rule of the command: margins alone, entropy, and random rows. The baseline takes the
place of the network, which would need a training for each batch; its vectors are TF-IDF, reduced to 100 numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from benchmarks.measuring import read_frame
from harness.baseline.linear import RECIPE
from harness.inference.ranking import CANDIDATES, choose_diverse, margins_of
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import AtLeast1
from preprocessing.base.split_names import TEST

RULES = ("random", "entropy", "margin", "margin, diverse")
SPLIT_KEY, START_KEY = 1, 2


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """Labels needed for the accuracy of random ones, if the rows to label are ranked."""

    SUBJECT = ("file",)
    file: str
    """Labelled file with columns text and label, and perhaps split."""
    random: AtLeast1 = 1000
    """Random labels, whose accuracy is to be reached."""
    batch: AtLeast1 = 100
    """Random labels at the beginning, and labels added at a time."""
    seeds: AtLeast1 = 3
    """Number of seeds of the first rows; figures are their mean."""
    json: bool = False
    """Print JSON instead of a table."""


def main(config: RankingConfig) -> None:
    """Show the accuracy by the number of labels, and the number that each rule needs."""
    frame = read_frame(Path(config.file)).astype({"label": str})
    is_test = frame["split"] == TEST if "split" in frame else pd.Series(False, frame.index)
    if not is_test.any():
        is_test = pd.Series(permutation(len(frame), SPLIT_KEY) < len(frame) // 5, frame.index)
    pool, test = (part.reset_index(drop=True) for part in (frame[~is_test], frame[is_test]))
    counts = CountVectorizer(ngram_range=(1, 2), min_df=2).fit(pool["text"])
    rows = Rows(counts.transform(pool["text"]), counts.transform(test["text"]), pool["label"], test["label"])
    with threadpool_limits(1):
        words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(pool["text"])
        vectors = TruncatedSVD(100, random_state=0).fit_transform(words)
        curves = {
            rule: np.mean([curve_of(rule, rows, vectors, config, seed) for seed in range(config.seeds)], axis=0)
            for rule in RULES
        }
    labels = range(config.batch, config.random + 1, config.batch)
    table = pd.DataFrame(curves, index=pd.Index(labels, name="labels")).round(4)
    target, reached = table["random"].iloc[-1], {}
    for rule in RULES[1:]:
        enough = table.index[table[rule] >= target]
        reached[rule] = int(enough[0]) if len(enough) else None
    values = {"curve": table.reset_index().to_dict("records"), "labels_needed": reached}
    print(json.dumps(values, indent=2) if config.json else f"{table.to_string()}\nlabels needed: {reached}")


@dataclass(frozen=True)
class Rows:
    """Counts of words and pairs, and labels, of the rows to choose from and of those that measure."""

    pool: Any
    test: Any
    """scipy's CSR ``[rows, n-grams]``."""
    pool_labels: pd.Series
    test_labels: pd.Series


def curve_of(rule: str, rows: Rows, vectors: np.ndarray, config: RankingConfig, seed: int) -> list[float]:
    """Accuracy on the test rows after each batch of labels."""
    order, accuracies = permutation(len(vectors), START_KEY, seed), list[float]()
    labelled = order[: config.batch]
    while True:
        learned = rows.pool[labelled]
        columns = np.flatnonzero(learned.getnnz(axis=0) >= 2)
        regression = LogisticRegression(C=RECIPE["C"], max_iter=1000)
        model = make_pipeline(TfidfTransformer(sublinear_tf=True), regression)
        model.fit(learned[:, columns], rows.pool_labels.iloc[labelled])
        accuracies.append(float(model.score(rows.test[:, columns], rows.test_labels)))
        if len(labelled) >= config.random:
            return accuracies
        unlabelled = order[~np.isin(order, labelled)]
        chosen = unlabelled[: config.batch]
        if rule != "random":
            chances = model.predict_proba(rows.pool[unlabelled][:, columns])
            chosen = unlabelled[rank_rows(rule, chances, vectors[unlabelled], config.batch)]
        labelled = np.concatenate([labelled, chosen])


def rank_rows(rule: str, chances: np.ndarray, vectors: np.ndarray, number: int) -> np.ndarray:
    """Positions of the rows that a rule chooses."""
    if rule == "entropy":
        return np.argsort((chances * np.log(np.maximum(chances, 1e-12))).sum(axis=1), kind="stable")[:number]
    names = list(map(str, range(chances.shape[1] + 1)))
    table = pa.table([np.zeros(len(chances)), *chances.T], names)
    by_margin = np.argsort(margins_of(table), kind="stable")
    if rule == "margin":
        return by_margin[:number]
    candidates = by_margin[: number * CANDIDATES]
    return candidates[choose_diverse(vectors[candidates], number)]
