# SPDX-License-Identifier: Apache-2.0
"""Evaluates the best weights of a run on a split or on new labelled rows: figures and the most confident mistakes. New
rows are read like the training corpus and encoded like its rows.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from harness.data.views import hashes_of, row_hashes, training_texts
from harness.inference.bundle import NAMED, Bundle
from harness.inference.config import EvaluateConfig
from harness.inference.rows import find_text_column, iter_parts, list_new_files
from harness.inference.scorer import unknown_shares
from harness.inference.scoring import score_split
from harness.model.attribution import attributions
from harness.ranks.precision import NAMES, configure_threads, runnable
from harness.ranks.session import Session
from harness.rundir.bundle_files import bundle_directory, reading_of, write_info
from harness.rundir.layout import EVALUATION
from harness.rundir.results import check_replaceable, figures_name, predictions_name, write_figures, write_predictions
from harness.scores.figures import Scores, figures
from harness.scores.metrics import mistakes_to_show
from harness.scores.tables import show_evaluation
from preprocessing.base.atomic import storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Screen, counted, percent, public, shortened, tell
from preprocessing.corpus import addresses
from preprocessing.corpus.columns import resolve
from preprocessing.dataset.shards import Split
from preprocessing.job.engine import show_progress
from preprocessing.job.executors import Workers
from preprocessing.job.parts import Source, convert_all
from preprocessing.labels import LabelMap, spelling
from preprocessing.text.vocabulary import UNK

COMPARED, COMPARED_S, BATCH = 1000, 30.0, 128
"""Rows that are compared in bf16, in as many seconds at most, so many at a time."""
LISTED = 10
"""Number of mistakes in the results; of a split more, if there are more classes or confusions to give examples of."""
MOST_TOKENS = 5000
"""Maximum tokens of the mistakes after the first ``LISTED``: each is computed many times for its weights."""
METHOD = "integrated gradients: what each word adds to the logit of the predicted label"
CHARACTERS = 500
"""Maximum characters of a mistake's text."""
OTHERWISE = "name another --output"


def evaluate(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Score one split with the best weights of a run; rank 0 writes, prints and returns the results.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    if config.split == UNLABELLED:
        raise DataError(
            f"{config.data or config.run}: the rows of split {UNLABELLED} have no labels to compare with; `padless "
            "predict` scores the file that they are from"
        )
    check_replaceable(output_of(config), config.split)
    bundle, scores, split = score_split(config, session)
    with session.world.together("writing the results"):
        if session.world.is_main:
            values = assess(scores, bundle, split) | {"dataset": split.manifest.fingerprint}
            unread = np.concatenate([(block.ids == UNK).sum(axis=1) == block.length for block in split.blocks])
            return conclude(config, bundle, scores, hashes_of(split)[~unread], values)
    return {}


def output_of(config: EvaluateConfig) -> Path:
    """The directory of figures and predictions."""
    return Path(config.output or Path(config.run, EVALUATION))


def conclude(
    config: EvaluateConfig, bundle: Bundle, scores: Scores, hashes: np.ndarray, values: dict[str, Any]
) -> dict[str, Any]:
    """Add facts about the texts to the figures, write them and the predictions, print and return them.

    ``hashes`` are the ``row_hashes`` of the texts with a known word; the ids of others do not identify them.
    """
    directory, name = output_of(config), values["split"]
    done = "replaced" if (directory / figures_name(name)).exists() else "written to"
    facts = {
        "without_known_word": len(scores.rows) - len(hashes),
        "training_texts": training_texts(hashes, config.run, bundle.info.dataset),
    }
    values |= {"texts": facts, "precision": NAMES[bundle.dtype]}
    with storing(directory, otherwise=OTHERWISE):
        write_results(directory, scores, bundle, values)
    if trained := facts["training_texts"]:
        share = f"{trained:,} of {len(scores.rows):,} rows ({percent(trained / len(scores.rows))})"
        tell(f"warning: {share} are training texts, so new texts may do worse than these figures")
    elif trained is None and not (config.quiet and config.input):
        tell("warning: rows were not compared with the training texts: their dataset was moved or changed")
    if config.json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
    elif not config.quiet:
        show_evaluation(Screen(), values)
        print(f"{done} {directory / figures_name(name)} and {predictions_name(name)}")
    return values


def assess(scores: Scores, bundle: Bundle, split: Split) -> dict[str, Any]:
    """All figures of ``SPLIT.json``: metrics after calibration with intervals, calibration and mistakes.

    Only rank 0 calls this. The model of ``bundle`` is on its device.
    """
    bundle.model.eval()
    predicted, chances = bundle.decision.predictions(scores.logits)
    shown = mistakes_to_show(scores.labels, predicted, chances, LISTED)
    lengths = np.array([len(ids) for ids in read_ids(split, scores.rows[shown].tolist())], np.int64)
    is_cheap = np.cumsum(lengths) <= MOST_TOKENS
    is_cheap[:LISTED] = True
    mistakes = describe_mistakes(shown[is_cheap], scores, bundle)
    classes = [bundle.labels.index(mistake["predicted"]) for mistake in mistakes]
    texts = read_ids(split, [mistake["row"] for mistake in mistakes])
    for mistake, ids, found in zip(mistakes, texts, attributions(bundle.model, texts, classes), strict=True):
        mistake["tokens"] = bundle.vocabulary.tokens.take(ids).to_pylist()
        mistake["weights"] = [round(score, 4) for score in found.scores.tolist()]
    return {**known_of(scores, bundle, split.name), "mistakes": mistakes, "mistakes_method": METHOD}


def known_of(scores: Scores, bundle: Bundle, name: str) -> dict[str, Any]:
    """The figures that need only labels and logits."""
    about = {"split": name, "dataset": bundle.info.dataset, "step": bundle.info.step}
    return about | figures(scores, bundle.labels, bundle.decision)


def write_results(directory: Path, scores: Scores, bundle: Bundle, values: dict[str, Any]) -> None:
    """Write the figures of a split, and the prediction for every row. Raises ``OSError``."""
    predicted, chances = bundle.decision.predictions(scores.logits)
    write_predictions(
        directory,
        values["split"],
        bundle.labels,
        bundle.label_type,
        rows=scores.rows,
        labels=scores.labels,
        predicted=predicted,
        chances=chances,
    )
    write_figures(directory, values["split"], values)


def compare_bf16(bundle: Bundle, split: Split) -> float:
    """The share of rows of a split that keep their label in bf16, of 1,000 rows at most, in half a minute at most. It
    is stored in the bundle; 0 if the device cannot compute the network in bf16. Raises ``OSError``.
    """
    device, until = bundle.model.head.weight.device.type, time.monotonic() + COMPARED_S
    able = device == "cpu" or "bf16" in runnable(device)
    if not able or Bundle.settle(bundle.info, device, "bf16")["precision"] == "fp32":
        return 0.0
    every, same = -(-len(split) // COMPARED), list[bool]()
    texts = [block.ids[at, : block.length[at]] for block in split.blocks for at in range(0, len(block.row), every)]
    batches = -(-len(texts) // BATCH)
    for some in (texts[start::batches] for start in range(batches)):  # short and long ones
        labels = []
        for bundle.dtype in (torch.float32, torch.bfloat16):
            labels.append(bundle.decision.predictions(bundle.score(some))[0])
        same += (labels[0] == labels[1]).tolist()
        if time.monotonic() > until:
            break
    share = float(np.mean(same))
    write_info(bundle.directory, replace(bundle.info, bf16=share))
    return share


def worst_mistakes(scores: Scores, bundle: Bundle) -> list[dict[str, Any]]:
    """The ``LISTED`` most confident wrong predictions, described."""
    predicted, _ = bundle.decision.predictions(scores.logits)
    return describe_mistakes(np.flatnonzero(predicted != scores.labels), scores, bundle, LISTED)


def describe_mistakes(
    positions: np.ndarray, scores: Scores, bundle: Bundle, most: int | None = None
) -> list[dict[str, Any]]:
    """Row number, label, predicted label and its probability of the rows at ``positions``, the highest probability
    first, at most ``most``.
    """
    predicted, chances = bundle.decision.predictions(scores.logits)
    confidence = chances[np.arange(len(predicted)), predicted]
    names = bundle.labels
    return [
        {
            "row": int(scores.rows[at]),
            "label": names[scores.labels[at]],
            "predicted": names[predicted[at]],
            "probability": float(confidence[at]),
        }
        for at in positions[np.argsort(-confidence[positions], kind="stable")][:most]
    ]


def read_ids(split: Split, rows: list[int]) -> list[np.ndarray]:
    """Token ids ``[length]`` of each of the rows with these numbers in the source."""
    found = {}
    for block in split.blocks:
        for place in np.flatnonzero(np.isin(block.row, rows)):
            found[int(block.row[place])] = block.ids[place, : block.length[place]]
    return [found[row] for row in rows]


def evaluate_input(config: EvaluateConfig) -> dict[str, Any]:
    """Score the input, write figures and predictions, print and return the figures.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    assert config.input is not None
    check_replaceable(output_of(config), name_of(config.input))
    directory = bundle_directory(config.run)
    bundle = Bundle(directory, config.batch, config.device, config.precision)
    configure_threads(bundle.settled["device"], config.threads)
    known = bundle.info.source
    classes = meanings(bundle.labels, config.source.labels, known.get("labels"))
    columns, known_texts = list[tuple[np.ndarray, ...]](), list[np.ndarray]()
    mistakes: list[dict[str, Any]] = []
    missing = 0
    with temporary_folder() as folder:
        sources = convert_input(config, known, folder)
        counts = [source.converted for source in sources]
        with show_progress("evaluating", sum(count.rows_read for count in counts), config.quiet):
            for source, rows in iter_parts(sources):
                labels = find_classes(config.input, rows, bundle.labels, classes)
                numbers, texts = rows["row"].to_numpy() + source.offset, pc.fill_null(rows["text"], "").combine_chunks()
                missing += rows["text"].null_count
                encoded = bundle.encoder(texts)
                ids = np.split(encoded.ids, encoded.offsets[1:-1])
                logits, hashes = bundle.score(ids), row_hashes(encoded.ids, encoded.offsets)
                known_texts.append(hashes[unknown_shares(ids) < 1])
                columns.append((numbers, labels, logits))
                for mistake in worst_mistakes(Scores(numbers, labels, logits), bundle):
                    at = int(np.searchsorted(numbers, mistake["row"]))
                    mistakes.append({**mistake, "text": texts[at].as_py()[:CHARACTERS]})
                mistakes = sorted(mistakes, key=lambda mistake: -mistake["probability"])[:LISTED]
    if not columns:
        raise DataError(f"{config.input}: holds no labelled row")
    scores = Scores(*(np.concatenate(one) for one in zip(*columns, strict=True)))
    values = {
        **known_of(scores, bundle, name_of(config.input)),
        "left_out": sum(count.neutral + count.filtered + count.without_label for count in counts),
        "missing": missing,
        "mistakes": mistakes,
        "input": public(addresses.absolute(config.input)),
    }
    return conclude(config, bundle, scores, np.concatenate(known_texts), values)


def name_of(address: str) -> str:
    """The name of the output files: the input's name with its ending, which is no split's name."""
    name = re.sub("[*?]", "_", Path(public(address).rstrip("/")).name)
    return name if "." in name else f"{name}.rows"


def meanings(names: Sequence[str], given: Any, known: Any) -> dict[str, int]:
    """Spelling of a label -> number of its class.

    ``given`` and ``known`` are the values of ``source.labels``, now and in the training: a map, or ``auto``. Raises
    ``ConfigError`` for a class in ``given`` that the run does not have.
    """
    chosen = given if isinstance(given, Mapping) else known
    if isinstance(chosen, Mapping):
        if strangers := [name for name in chosen if name not in names]:
            raise ConfigError(f"source.labels: the run has no class {strangers[0]!r}; it has {', '.join(names)}")
        return {value: names.index([*chosen][number]) for value, number in LabelMap(chosen).numbers.items()}
    spellings = [str(spelling(name)) for name in names]
    return {one: number for number, one in enumerate(spellings) if spellings.count(one) == 1}


def convert_input(config: EvaluateConfig, known: Mapping[str, Any], folder: Path) -> list[Source]:
    """The files of the input as Parquet parts in ``folder``, read by the given options and those ``known`` of the
    training corpus. Raises ``DataError`` that names file and row, or the columns that exist.
    """
    source = replace(reading_of(config.source, known), path=[str(config.input)])
    resolved = resolve(find_text_column(list_new_files(source, config.source), config.source))
    for line in resolved.lines:
        tell(line)
    return convert_all(resolved.files, Workers(config.timeout_s), folder)


def find_classes(address: str, rows: pa.Table, names: Sequence[str], classes: Mapping[str, int]) -> np.ndarray:
    """int64 ``[rows]``: the class index of each row; an exact class name has priority over ``classes``.

    Raises ``DataError`` for unknown labels.
    """
    index_by_label = {label: classes.get(str(spelling(label))) for label in rows["label"].unique().to_pylist()}
    index_by_label |= {name: index for index, name in enumerate(names) if name in index_by_label}
    unknown = []
    for label in sorted(label for label, index in index_by_label.items() if index is None):
        numbers = rows.filter(pc.equal(rows["label"], label))["row"]
        unknown.append(f"{label[:40]!r} ({counted(len(numbers), 'row')}, first row {numbers[0]})")
    if unknown:
        raise DataError(
            f"{address}: holds labels that the run does not know: {shortened(', '.join(unknown), NAMED)}; it knows "
            f"{shortened(', '.join(names), NAMED)}; say in source.labels what they mean, or leave the rows out with "
            "source.neutral"
        )
    return np.array([index_by_label[label] for label in rows["label"].to_pylist()], np.int64)
