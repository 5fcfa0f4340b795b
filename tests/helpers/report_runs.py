# SPDX-License-Identifier: Apache-2.0
"""Run directories of any number of classes, as a training would leave them, made in a second without training.

The dataset is built by the real command from texts that people could have written. The predictions are made up: right
for most rows, but seldom for some classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.metrics.calibration import Decision
from harness.metrics.figures import Scores, figures, scalar_figures
from harness.metrics.metrics import classification_metrics, mistakes_to_show, predict_labels, probabilities
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


def write_corpus(path: Path, names: list[str], rows: int, seed: int = 0) -> Path:
    """A CSV file with the columns text and label; class 0 has the most rows, the last the fewest."""
    random = np.random.default_rng(seed)
    shares = 1 / (1 + np.arange(len(names)) / len(names))
    random_labels = random.choice(len(names), rows, p=shares / shares.sum())
    labels = np.concatenate(
        [np.arange(len(names)).repeat(10), random_labels]
    )  # ten of each, so that each split has some
    texts = []
    for row, label in enumerate(labels.tolist()):
        subject, _, trouble = names[label].partition(": ")
        about = f'I\'m worried: my {subject} is {trouble}, order No. {row}.<br />Thanks, "Sam"'
        filler = " ".join(f"word{int(word)}" for word in random.zipf(1.5, int(random.integers(3, 60))) % 300)
        texts.append((f"{about} {filler}", names[label]))
    return write_csv(path, texts)


def write_data(folder: Path, number: int, rows: int, *, test: bool = True, corpus: Path | None = None) -> Path:
    """``place/data`` of so many classes, from ``place/corpus.csv``; without ``test`` it has no test split."""
    folder.mkdir(parents=True, exist_ok=True)
    source = corpus or write_corpus(folder / "corpus.csv", class_names(number), rows)
    prepare(source, folder / "data", *([] if test else ["--splits.test", "0"]))
    return folder / "data"


def write_run(run: Path, data: Path, *, skill: float = 3.0, seed: int = 0, **config: Any) -> Path:
    """A finished run on ``data``; the higher ``skill``, the better its weights. Measured on test, else validation."""
    manifest = read_manifest(data)
    run.mkdir(parents=True)
    config = {"model": ModelConfig(embedding_dim=32, hidden_size=32), **config}
    write_config(RunConfig(data=str(data), run=str(run), seed=seed, **config))
    split = "test" if manifest.splits.get("test") else "validation"
    write_log(run, manifest, data, skill, seed)
    write_index(run / BUNDLE, dataset=manifest.fingerprint, labels=manifest.labels)
    write_evaluation(run if split == "test" else run / EVALUATION, split, data, manifest, skill, seed)
    write_status(run, Ending("finished", 200))
    return run


def scores_of(data: Path, manifest: Manifest, split: str, skill: float, seed: int) -> tuple[np.ndarray, ...]:
    """Row numbers, labels and logits of a split; classes differ in how well they are told apart."""
    rows, labels = (split_of(data, split).column(name) for name in ("row", "label"))
    order, number = np.argsort(rows), len(manifest.labels)
    rows, labels = rows[order], labels[order]
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(rows), number))
    ease = skill * random.uniform(0.4, 1.4, number)
    logits[np.arange(len(rows)), labels] += ease[labels]
    neighbour = (labels + 1) % number
    logits[np.arange(len(rows)), neighbour] += random.uniform(0, skill * 0.8, len(rows))
    return rows, labels, logits[:, 1] - logits[:, 0] if number == 2 else logits


def write_evaluation(folder: Path, split: str, data: Path, manifest: Manifest, skill: float, seed: int) -> None:
    """``SPLIT.json`` and the predictions, the mistakes with weights that are made up."""
    rows, labels, logits = scores_of(data, manifest, split, skill, seed)
    random, decision = np.random.default_rng(seed), Decision(temperature=1.3)
    ids = {number: row.ids for number, row in rows_by_number(data, split).items()}
    values = figures(Scores(rows, labels, logits), manifest.labels, decision)
    calibrated = decision.calibrate(logits)
    predictions, chances = predict_labels(calibrated), probabilities(calibrated)
    mistake_positions, _ = mistakes_to_show(labels, predictions, chances, 10)
    worst = mistake_positions[np.argsort(-chances[mistake_positions, predictions[mistake_positions]], kind="stable")]
    vocabulary = Vocabulary.read(data / VOCABULARY)
    mistakes = [
        {
            "row": int(rows[at]),
            "label": manifest.labels[labels[at]],
            "predicted": manifest.labels[predictions[at]],
            "probability": float(chances[at, predictions[at]]),
            "tokens": vocabulary.tokens.take(ids[rows[at]]).to_pylist(),
            "weights": (random.normal(size=len(ids[rows[at]])) ** 3).round(4).tolist(),
        }
        for at in worst
    ]
    run = folder.parent if folder.name == EVALUATION else folder
    values |= {"split": split, "dataset": manifest.fingerprint, "step": STEP}
    values |= {OF_WEIGHTS: read_info(run / BUNDLE).weights_sha256}
    values |= {"mistakes": mistakes, "mistakes_method": "made up"}
    columns = Predictions(rows, labels, predictions, chances)
    write_results(folder, values, manifest.labels, manifest.label_type, columns)


def write_log(run: Path, manifest: Manifest, data: Path, skill: float, seed: int) -> None:
    """Two hundred steps of a training and four validations, the third of them the best."""
    log, random = MetricsLog(run), np.random.default_rng(seed)
    start = float(np.log(len(manifest.labels)))
    for step in range(5, 201, 5):
        noise = random.uniform(0.9, 1.1)
        learned = {"loss": start * np.exp(-step * skill / 250) * noise, "lr": 0.002 * (1 - step / 201), "rows": 320}
        log.write("train", {"step": step, **learned, "grad_norm": noise / (0.1 + step / 50), "padding": 0.03 * noise})
        timing = {"rows_per_s": 900 * noise, "tokens_per_s": 70_000 * noise, "data_wait": 0.01 * noise}
        timing |= {"memory_bytes": 3e8}
        log.write("train", {"step": step, **timing}, "throughput.jsonl")
        if step % 50 == 0:
            grown = skill * (min(step, 150) - max(0, step - 150)) / 150
            _, labels, logits = scores_of(data, manifest, "validation", grown, seed)
            values = scalar_figures(classification_metrics(logits, labels))
            log.write("validation", {"step": step, "epoch": step // 50, **values, "best": step <= 150})
            log.write("validation", {"step": step, "seconds": 0.5 * step}, "throughput.jsonl")


TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]


def make_run(root: Path, num_classes: int = 2, *, seed: int = 1, **shape: Any) -> Path:
    """A run ``root/run`` to export: random weights, its dataset ``root/data``, figures of a test split."""
    data, run = root / "data", root / "run"
    write_dataset(data, {"train": 50, "validation": 30, "test": 10}, num_classes=num_classes, seed=seed)
    facts = {"vectors": {"source": "/home/somebody/vectors.npy", "sha256": "0"}}
    write_drawn(run / BUNDLE, data, seed=seed, facts=facts, **shape)
    write_config(RunConfig(data=str(data), run=str(run), epochs=3, seed=seed, optim=OptimConfig(lr=0.01)))
    write_evaluation(run, "test", data, read_manifest(data), 3.0, seed)
    return run


def export(*arguments: object) -> int:
    """Exit code of the command."""
    return cli.run(main, ["export", *map(str, arguments)])
