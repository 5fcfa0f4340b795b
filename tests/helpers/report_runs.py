# SPDX-License-Identifier: Apache-2.0
"""Run directories of any number of classes, as a training would leave them, made in a second without training.

The dataset is built by the real command from texts that people could have written. The predictions are made up: right
for most rows, but seldom for some classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.config import ModelConfig, RunConfig
from harness.metrics.calibration import Decision
from harness.metrics.figures import Scores, figures, scalar_figures
from harness.metrics.metrics import classification_metrics, mistakes_to_show
from harness.rundir.bundle_files import OF_WEIGHTS, read_info
from harness.rundir.layout import BUNDLE, EVALUATION
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import Ending, write_config, write_status
from harness.rundir.results import Predictions, write_results
from padless.commands import main
from padless.core import cli
from preprocessing.dataset.shards import VOCABULARY, Manifest, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.helpers.bundles import STEP, write_drawn, write_index
from tests.helpers.corpora import prepare, write_csv
from tests.helpers.datasets import rows_by_number, split_of, write_dataset


def class_names(number: int) -> list[str]:
    """Two short names, or as many long ones as corpora of customers' questions have."""
    if number == 2:
        return ["negative", "positive"]
    return [f"order {order:03}: virtual card, not recognised" for order in range(number)]


def write_corpus(path: Path, names: list[str], rows: int) -> Path:
    """A CSV file with the columns text and label; class 0 has the most rows, the last the fewest."""
    random = np.random.default_rng(0)
    shares = 1 / (1 + np.arange(len(names)) / len(names))
    ten_of_each = np.arange(len(names)).repeat(10)  # so that each split has some
    labels = np.concatenate([ten_of_each, random.choice(len(names), rows, p=shares / shares.sum())])
    texts = []
    for row, label in enumerate(labels.tolist()):
        filler = " ".join(f"word{int(word)}" for word in random.zipf(1.5, int(random.integers(3, 60))) % 300)
        texts.append((f'I\'m worried: {names[label]}, No. {row}.<br />Thanks, "Sam" {filler}', names[label]))
    return write_csv(path, texts)


def write_data(folder: Path, number: int, rows: int, *, test: bool = True, corpus: Path | None = None) -> Path:
    """``place/data`` of so many classes, from ``place/corpus.csv``; without ``test`` it has no test split."""
    folder.mkdir(parents=True, exist_ok=True)
    source = corpus or write_corpus(folder / "corpus.csv", class_names(number), rows)
    prepare(source, folder / "data", *([] if test else ["--splits.test", "0"]))
    return folder / "data"


def write_run(run: Path, data: Path, *, skill: float = 3.0, seed: int = 0, **config: Any) -> Path:
    """A finished run on ``data``; the higher ``skill``, the better its weights. Measured on test, else validation.

    Its bundle stays where there is one.
    """
    manifest = read_manifest(data)
    run.mkdir(parents=True, exist_ok=True)
    config = {"model": ModelConfig(embedding_dim=32, hidden_size=32), **config}
    write_config(RunConfig(data=str(data), run=str(run), seed=seed, **config))
    split = "test" if manifest.splits.get("test") else "validation"
    write_log(run, manifest, data, skill, seed)
    if not (run / BUNDLE).exists():
        write_index(run / BUNDLE, dataset=manifest.fingerprint, labels=manifest.labels)
    write_evaluation(run if split == "test" else run / EVALUATION, split, data, skill, seed)
    write_status(run, Ending("finished", 200))
    return run


def scores_of(data: Path, split: str, skill: float, seed: int) -> Scores:
    """Scores of the rows of a split; classes differ in how well they are told apart."""
    rows, labels = (split_of(data, split).column(name) for name in ("row", "label"))
    order, number = np.argsort(rows), len(read_manifest(data).labels)
    rows, labels = rows[order], labels[order]
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(rows), number))
    ease = skill * random.uniform(0.4, 1.4, number)
    logits[np.arange(len(rows)), labels] += ease[labels]
    logits[np.arange(len(rows)), (labels + 1) % number] += random.uniform(0, skill * 0.8, len(rows))
    return Scores(rows, labels, logits[:, 1] - logits[:, 0] if number == 2 else logits)


def write_evaluation(folder: Path, split: str, data: Path, skill: float, seed: int) -> None:
    """``SPLIT.json`` and the predictions, the mistakes with weights that are made up."""
    manifest, scores, decision = read_manifest(data), scores_of(data, split, skill, seed), Decision(temperature=1.3)
    predictions, chances = decision.predictions(scores.logits)
    tokens, row_by_number = Vocabulary.read(data / VOCABULARY).tokens, rows_by_number(data, split)
    mistakes = []
    for position, predicted in zip(*mistakes_to_show(scores.labels, predictions, chances, 10), strict=True):
        row = int(scores.rows[position])
        mistake = {"row": row, "probability": float(chances[position, predicted])}
        mistake |= {"label": manifest.labels[scores.labels[position]], "predicted": manifest.labels[predicted]}
        ids = row_by_number[row].ids
        mistakes.append({**mistake, "tokens": tokens.take(ids).to_pylist(), "weights": np.sin(ids).tolist()})
    run = folder.parent if folder.name == EVALUATION else folder
    values = {
        **figures(scores, manifest.labels, decision),
        **{"split": split, "dataset": manifest.fingerprint, "step": STEP},
        OF_WEIGHTS: read_info(run / BUNDLE).weights_sha256,
        **{"mistakes": mistakes, "mistakes_method": "made up"},
    }
    columns = Predictions(scores.rows, scores.labels, predictions, chances)
    write_results(folder, values, manifest.labels, manifest.label_type, columns)


def write_log(run: Path, manifest: Manifest, data: Path, skill: float, seed: int) -> None:
    """Two hundred steps of a training and four validations, the third of them the best."""
    log, start = MetricsLog(run, {}), float(np.log(len(manifest.labels)))
    for step in range(5, 201, 5):
        loss = start * np.exp(-step * skill / 250)
        log.write("train", {"step": step, "loss": loss, "lr": 0.002, "rows": 320, "grad_norm": loss})
        log.write("train", {"step": step, "rows_per_s": 900.0, "tokens_per_s": 70_000.0}, "throughput.jsonl")
        if step % 50 == 0:
            learned = skill * (min(step, 150) - max(0, step - 150)) / 150
            scores = scores_of(data, "validation", learned, seed)
            values = scalar_figures(classification_metrics(scores.logits, scores.labels))
            log.write("validation", {"step": step, "epoch": step // 50, **values, "best": step <= 150})
            log.write("validation", {"step": step, "seconds": 0.5 * step}, "throughput.jsonl")


TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]


def make_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run ``root/run`` to export: random weights, its dataset ``root/data``, figures of a test split."""
    data, run = root / "data", root / "run"
    write_dataset(data, {"train": 50, "validation": 30, "test": 10}, num_classes=num_classes, seed=seed)
    facts = {"vectors": {"source": "/home/somebody/vectors.npy", "sha256": "0"}}
    write_drawn(run / BUNDLE, data, seed=seed, facts=facts, **shape)
    return write_run(run, data, seed=seed)


def export(*arguments: object) -> int:
    """Exit code of the command."""
    return cli.run(main, ["export", *map(str, arguments)])
