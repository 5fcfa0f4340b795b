# SPDX-License-Identifier: Apache-2.0
"""Predictions of a sentence encoder for the rows without labels, as a file that ``train --teacher`` takes.

To the logits of a regression on the encoder are added those of a TF-IDF baseline, in the share that is best out of
fold. If both together are hardly better than the TF-IDF baseline alone, the file has no rows: the network, which is a
few points better too, learns more from the labels alone.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.baselines.out_of_fold import find_predictable, predict_out_of_fold, read_labelled
from harness.baselines.sentence_encoder import Embeddings, Regression, read_texts
from harness.baselines.tfidf import Linear
from harness.metrics.calibration import choose_share, fit_temperature
from harness.metrics.intervals import difference_interval
from harness.metrics.metrics import probabilities
from harness.rundir.results import prediction_columns
from padless.core import atomic
from padless.core.split_names import TRAIN, UNLABELLED
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import open_split

USUAL_SHARE = 0.125
"""The weight of a TF-IDF baseline's logits beside those of a regression on an encoder, before any row is seen."""
MIN_LEAD = 0.02
"""By how much the network's accuracy is above the TF-IDF baseline's, about."""
SUMMARY, LEFT_OUT = b"padless.summary", "left out: "
"""Key of the schema's metadata: how good the predictions are, or why there are none."""


def write_predictions(
    path: Path, data: str, manifest: Manifest, embeddings: Embeddings, regression: Regression
) -> None:
    """Write the predictions for the rows without labels. Raises ``OSError``, and ``DataError`` as ``read_texts`` and
    ``predict_out_of_fold`` do.
    """
    if not manifest.rows(UNLABELLED):
        write_table(path, pa.table({}), f"{LEFT_OUT}there are no rows without labels for it to teach")
        return
    rows, blocks = read_labelled(data, manifest, [TRAIN])
    linear, is_predictable = predict_out_of_fold(data, manifest, rows, blocks), find_predictable(rows)
    encoded, linear = regression.held_out[is_predictable], linear[is_predictable]
    labels = rows["label"].to_numpy()[is_predictable]
    share = choose_share(encoded, linear, labels, USUAL_SHARE)
    logits = encoded + share * linear
    hits, linear_hits = (probabilities(values).argmax(axis=1) == labels for values in (logits, linear))
    accuracy = f"right on {hits.mean():.0%} of {len(labels):,} labelled rows"
    summary = f"{accuracy} out of fold, a TF-IDF baseline on {linear_hits.mean():.0%}"
    _, high = difference_interval(hits, linear_hits)
    if high < MIN_LEAD:
        write_table(path, pa.table({}), f"{LEFT_OUT}{summary}: the network alone is as good")
        return
    unlabelled = open_split(data, manifest, UNLABELLED)
    vectors = embeddings.look_up(read_texts(unlabelled))
    sums = regression.logits(vectors) + share * Linear.learn(data, manifest).logits(unlabelled)
    soft_labels = probabilities(sums / fit_temperature(logits, labels))
    columns = prediction_columns(soft_labels.argmax(axis=1), soft_labels, manifest.labels, manifest.label_type)
    write_table(path, pa.table({"row": unlabelled.column("row"), **columns}), summary)


def write_table(path: Path, table: pa.Table, summary: str) -> None:
    """Write a table as Parquet with a summary. Raises ``OSError``."""
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(table.replace_schema_metadata({SUMMARY: summary}), file)


def read_teacher_note(path: Path) -> str:
    """The summary of a file of ``write_predictions``; empty for every other file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, ValueError):  # no Parquet file
        return ""
    return str(metadata.get(SUMMARY, b""), "utf-8", "replace")
