# SPDX-License-Identifier: Apache-2.0
"""``padless evaluate``: evaluates the best weights of a run on a split or on new labelled rows: figures, of a split
the most confident mistakes, and how many rows are texts that the run has learned from: as labelled rows, as rows
without labels that a teacher taught, or as rows of the run whose weights it started from. New rows are read like the
training corpus and encoded like its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.config import LANGUAGE_MODEL
from harness.data.run_rows import hold_out
from harness.distributed.devices import check_device
from harness.inference.config import EvaluateConfig, resolve_evaluation
from harness.inference.rows import find_labelled, iter_parts
from harness.inference.scorer import unknown_shares
from harness.metrics.figures import Scores, figures, print_evaluation
from harness.metrics.metrics import mistakes_to_show
from harness.rundir.bundle_files import OF_WEIGHTS, BundleInfo, bundle_directory, find_info, read_info
from harness.rundir.layout import EVALUATION
from harness.rundir.records import read_run_config
from harness.rundir.results import (
    Predictions,
    check_replaceable,
    figures_name,
    label_texts,
    predictions_name,
    write_results,
)
from padless.core import arrays
from padless.core.atomic import storage_errors, temporary_folder
from padless.core.cli import print_json
from padless.core.errors import ConfigError, DataError
from padless.core.jobs import Workers, show_progress
from padless.core.randomness import splitmix64
from padless.core.split_names import TRAIN, UNLABELLED
from padless.core.terminal import Screen, percent, print_stderr, public, shorten_line
from preprocessing.dataset.remote import open_split
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.views import read_data
from preprocessing.labels import AUTO, NAME_END, distinct, normalize_label
from preprocessing.pipeline.parts import Source, convert_all
from preprocessing.sources import addresses
from preprocessing.text.vocabulary import UNK

if TYPE_CHECKING:
    from harness.inference.bundle import Bundle

NUM_MISTAKES = 10
"""Mistakes in the results; more, if there are more classes to give examples of."""
METHOD = "integrated gradients: what each word adds to the logit of the predicted label"
MAX_TOKENS = 1_000_000_000
"""Up to this many training tokens, texts are searched for overlap; that takes about a minute on one core."""
MIN_KNOWN_WORDS = 8
MAX_LIST_WIDTH = 200
"""Maximum width of a list of classes in a message."""


class EncodedRows(NamedTuple):
    """Some labelled rows."""

    numbers: np.ndarray
    """int64 ``[rows]``: in the source."""
    labels: np.ndarray
    """As for ``Scores``."""
    ids: list[np.ndarray]
    """Those of each text."""


class ScoredRows(NamedTuple):
    """All rows of an evaluation, scored, in the order of the source."""

    scores: Scores
    is_unread: np.ndarray
    """Bool ``[rows]``: whether a text has no known word."""
    hashes: np.ndarray
    """uint64 ``[rows]``: of each text (``hash_texts``)."""


def main(config: EvaluateConfig) -> None:
    """Evaluate on new labelled rows or, without ``input``, on a split of a dataset."""
    measure(config)


def measure(config: EvaluateConfig) -> dict[str, Any]:
    """Score rows with the best weights of a run; write figures and predictions, print and return the figures.

    What can be refused is refused before torch is loaded. Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    config = resolve_evaluation(config)
    check_device(config.device)
    name = config.split if config.input is None else result_name(config.input)
    directory = Path(config.output or Path(config.run, EVALUATION))
    info, is_inside = (
        find_info(bundle_directory(config.run)),
        directory.resolve().is_relative_to(Path(config.run).resolve()),
    )
    # In the run the weights may be older ones.
    check_replaceable(directory, name, {} if is_inside or info is None else {OF_WEIGHTS: info.weights_sha256})
    bundle = open_bundle(config)
    scored, values = score_split(config, bundle) if config.input is None else score_input(config, bundle, name)
    num_rows, num_trained = len(scored.scores.rows), count_training_texts(scored.hashes, config.run)
    facts = {"without_known_word": int(scored.is_unread.sum()), "training_texts": num_trained}
    values |= {"texts": facts, "precision": bundle.arithmetic["precision"]}
    with storage_errors(directory, otherwise="name another --output"):
        write_evaluation(directory, scored.scores, bundle, values)
    if num_trained is None:
        print_stderr("warning: rows were not compared with the training texts: their dataset was moved or changed")
    elif num_trained:
        share = f"{num_trained:,} of {num_rows:,} rows ({percent(num_trained / num_rows)})"
        print_stderr(f"warning: {share} are training texts, so new texts may do worse than these figures")
    if config.json:
        print_json(values)
    elif not config.quiet:
        print_evaluation(Screen(), values)
        print(f"written to {directory / figures_name(name)} and {predictions_name(name)}")
    return values


def score_split(config: EvaluateConfig, bundle: Bundle) -> tuple[ScoredRows, dict[str, Any]]:
    """The scores and figures of a split."""
    split = open_split_of(config, bundle.info)
    with show_progress(f"scoring {config.split}", len(split), config.quiet):
        scored = score_rows(bundle, rows_of_split(split))
    assert len(scored.scores.rows) == len(split), "a row was not scored"
    return scored, assess(scored.scores, bundle, split) | {"dataset": split.manifest.fingerprint}


def score_input(config: EvaluateConfig, bundle: Bundle, name: str) -> tuple[ScoredRows, dict[str, Any]]:
    """The scores of new labelled rows, and their figures with this name of a split."""
    assert config.input is not None
    labels = label_options(bundle.labels, config.source.labels, bundle.info.source.labels)
    with temporary_folder() as folder:
        files = find_labelled(config.input, config.source, bundle.info.source, labels)
        sources = convert_all(files, Workers(), folder)
        counts = [source.converted for source in sources]
        with show_progress("evaluating", sum(count.rows_read for count in counts), config.quiet):
            scored = score_rows(bundle, rows_of_sources(sources, bundle))
    facts = {
        "left_out": sum(count.filtered + count.without_label for count in counts),
        "input": public(addresses.absolute(config.input)),
    }
    return scored, compute_figures(scored.scores, bundle, name) | facts


def score_rows(bundle: Bundle, parts: Iterable[EncodedRows]) -> ScoredRows:
    """The scores of all rows, sorted by their numbers."""
    columns_of_parts = []
    for part in parts:
        offsets = np.concatenate([[0], np.cumsum(list(map(len, part.ids)))])
        hashes = hash_texts(np.concatenate(part.ids), offsets)
        is_unread = unknown_shares(part.ids) == 1
        columns_of_parts.append((part.numbers, part.labels, bundle.score(part.ids), is_unread, hashes))
    columns = [np.concatenate(column) for column in zip(*columns_of_parts, strict=True)]
    order = np.argsort(columns[0])
    rows, labels, logits, is_unread, hashes = (column[order] for column in columns)
    assert (np.diff(rows) > 0).all(), "a row was scored twice"
    return ScoredRows(Scores(rows, labels, logits), is_unread, hashes)


def open_bundle(config: EvaluateConfig) -> Bundle:
    """The best weights of a run on the chosen device."""
    from harness.distributed.precision import configure_threads, keep_memory
    from harness.inference.bundle import Bundle

    bundle = Bundle(bundle_directory(config.run), config.device, config.precision)
    configure_threads(bundle.arithmetic["device"])
    keep_memory()
    return bundle


def open_split_of(config: EvaluateConfig, info: BundleInfo) -> Split:
    """``config.split`` of ``config.data``, or of the dataset of the training. The fold of the training is held out, if
    there was one.

    Raises ``DataError`` for a dataset with another text→ids code, and for one that has the name of the training's now.
    """
    data = config.data or read_run_config(config.run)["data"]
    manifest = read_data(data)
    if manifest.fingerprint == info.dataset:
        manifest = hold_out(manifest, info.fold, data)
    elif config.data is None:
        raise DataError(
            f"{data}: not the dataset that {config.run} was trained on, but one built since, and its rows may be "
            f"training rows; build the old one again, or score this one all the same with --data {data}"
        )
    same_text(info, manifest, data)
    return open_split(data, manifest, config.split).read_unmapped()


def same_text(info: BundleInfo, manifest: Manifest, data: str | Path) -> None:
    """Raise ``DataError`` if the dataset's text→ids code (law 1) or classes are not those of the weights."""
    if info.text_hash != manifest.text_hash:
        part = "vocabulary" if info.vocabulary_hash != manifest.vocabulary_hash else "text pipeline"
        raise DataError(
            f"{data}: its {part} is not the one the weights were trained with; name the dataset of the training, or "
            "one built with its vocabulary (vocabulary.base)"
        )
    if info.has_label_sets != manifest.has_label_sets:
        raise DataError(
            f"{data}: only one of this dataset and that of the weights has several labels to a text; build it again "
            "with source.labels_separator as in the training"
        )
    if info.labels != manifest.labels:
        of_data, of_weights = (
            shorten_line(", ".join(names), MAX_LIST_WIDTH) for names in (manifest.labels, info.labels)
        )
        raise DataError(
            f"{data}: its {len(manifest.labels)} classes ({of_data}) are not the {len(info.labels)} of the weights "
            f"({of_weights}), in the same order; build it with source.labels that names those"
        )


def rows_of_split(split: Split) -> Iterator[EncodedRows]:
    """The rows of a split, block by block."""
    members = split.manifest.members
    for block in split.blocks:
        labels = block.label.astype(np.int64)
        texts = [ids[:length] for ids, length in zip(block.ids, block.length, strict=True)]
        if texts:
            yield EncodedRows(block.row, labels if members is None else members[labels], texts)


def rows_of_sources(sources: Sequence[Source], bundle: Bundle) -> Iterator[EncodedRows]:
    """The labelled rows of new files. Raises ``DataError`` for labels that are no class, and without rows."""
    has_rows = False
    for source, rows in iter_parts(sources):
        ids = bundle.encoder.encode_each(pc.fill_null(rows["text"], "").combine_chunks())
        labels, is_unknown = find_classes(rows["label"].combine_chunks(), bundle.info)
        if is_unknown.any():
            row, label = (rows[name][int(is_unknown.argmax())] for name in ("row", "label"))
            problem = f"its label {str(label)[:40]!r} is no class of the run"
            raise DataError(f"{source.file.name}: row {row}: {problem}; set source.labels, or source.labels_separator")
        has_rows = True
        yield EncodedRows(rows["row"].to_numpy() + source.offset, labels, ids)
    if not has_rows:
        raise DataError(f"{sources[0].file.name}: holds no labelled row")


def result_name(address: str) -> str:
    """The name of the output files: the input's name with its suffix, which is no split's name."""
    name = Path(public(address).rstrip("/")).name
    return name if "." in name else f"{name}.rows"


def label_options(names: Sequence[str], labels: Any, trained_labels: Any) -> Any:
    """``source.labels`` for new rows of the classes ``names``: the map in ``labels``, else that of the training, else
    the names themselves, in any case and spacing; ``auto`` if they differ only in that.

    Raises ``ConfigError`` for a class in the map that the run does not have.
    """
    label_map = labels if isinstance(labels, Mapping) else trained_labels
    if not isinstance(label_map, Mapping):
        is_unique = len(set(map(normalize_label, names))) == len(names)
        return {name: [name] for name in names} if is_unique else AUTO
    if other_names := [name for name in label_map if name not in names]:
        raise ConfigError(f"source.labels: the run has no class {other_names[0]!r}; it has {', '.join(names)}")
    return label_map


def find_classes(cells: pa.Array, info: BundleInfo) -> tuple[np.ndarray, np.ndarray]:
    """The labels of converted rows as for ``Scores``, and whether a row has one that is no class of the run, bool
    ``[rows]``.
    """
    texts, index = distinct(cells)
    classes, names_by_text = np.array(info.labels, object), [{*text.split(NAME_END)} - {""} for text in texts]
    members = np.array([np.isin(classes, list(names)) for names in names_by_text], bool).reshape(-1, len(classes))
    num_names, num_known = np.array(list(map(len, names_by_text))), members.sum(axis=1)
    if info.has_label_sets:
        return members[index], (num_known < num_names)[index]
    return members.argmax(axis=1)[index], ((num_known != 1) | (num_names != 1))[index]


def hash_texts(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[texts]``: a hash of each text ``ids[offsets[i]:offsets[i + 1]]``. Equal ids are equal texts, but for
    unknown words, which all have one id: a text that holds some has 0, for one that cannot be compared, unless it has
    ``MIN_KNOWN_WORDS`` known ones too.
    """
    num_unknown = arrays.segment_sums((ids == UNK).astype(np.uint64), offsets)
    num_known = np.diff(offsets).astype(np.uint64) - num_unknown
    hashes = arrays.segment_hashes(splitmix64(ids), offsets)
    return np.where((num_unknown == 0) | (num_known >= MIN_KNOWN_WORDS), hashes, 0)


def count_training_texts(hashes: np.ndarray, run: str | Path) -> int | None:
    """How many of these ``hash_texts`` are those of texts that a run has learned from.

    None if unknown: a bundle without its run, or a dataset that is missing, damaged, changed or too large.
    """
    hashes = hashes[hashes != 0]
    is_training = np.zeros(len(hashes), bool)
    try:
        for split in list_learned_splits(run):
            blocks = (arrays.unpad_segments(block.ids, block.length) for block in split.blocks)
            is_training |= np.isin(hashes, np.concatenate([hash_texts(*block) for block in blocks]))
    except (ConfigError, DataError, KeyError):
        return None
    return int(is_training.sum())


def list_learned_splits(run: str | Path) -> Iterator[Split]:
    """The splits whose texts the weights of a run have learned from. Raises ``DataError`` if one is not there any more,
    has changed, or is too large. Of the run that the weights started from, if it is there and its ids are the same.
    """
    config, info = read_run_config(run), read_info(bundle_directory(run))
    data, manifest = config["data"], read_data(config["data"])
    if manifest.fingerprint != info.dataset:
        raise DataError(f"{data}: is not the dataset of {run} any more")
    has_unlabelled = info.task == LANGUAGE_MODEL or config.get("teacher") is not None
    manifest = hold_out(manifest, config.get("fold"), data)
    for name in (TRAIN, UNLABELLED) if has_unlabelled else (TRAIN,):
        if manifest.tokens(name) > MAX_TOKENS:
            raise DataError(f"{data}: has too many tokens to be compared")
        if manifest.rows(name):
            yield open_split(data, manifest, name).read_unmapped()
    if info.started_from is not None:
        with suppress(ConfigError, DataError, KeyError):
            first_run = config.get("init", {}).get("weights") or f"{config['run']}-pretrained"
            if read_info(bundle_directory(first_run)).text_hash == info.text_hash:
                yield from list_learned_splits(first_run)


def assess(scores: Scores, bundle: Bundle, split: Split) -> dict[str, Any]:
    """All figures of ``SPLIT.json``: metrics after calibration with intervals, calibration and mistakes."""
    mistakes = explain_mistakes(scores, bundle, split)
    return {**compute_figures(scores, bundle, split.name), "mistakes": mistakes, "mistakes_method": METHOD}


def compute_figures(scores: Scores, bundle: Bundle, name: str) -> dict[str, Any]:
    """The figures that need only labels and logits."""
    info = bundle.info
    origin = {"split": name, "dataset": info.dataset, "step": info.step, OF_WEIGHTS: info.weights_sha256}
    return origin | figures(scores, bundle.labels, bundle.decision)


def write_evaluation(directory: Path, scores: Scores, bundle: Bundle, values: dict[str, Any]) -> None:
    """Write the figures of a split, and the prediction for every row. Raises ``OSError``."""
    predicted, chances = bundle.decision.predictions(scores.logits)
    predictions = Predictions(scores.rows, scores.labels, predicted, chances)
    write_results(directory, values, bundle.labels, bundle.label_type, predictions)


def explain_mistakes(scores: Scores, bundle: Bundle, split: Split) -> list[dict[str, Any]]:
    """Row number, label, predicted label and its probability of ``mistakes_to_show``, the highest probability first;
    and what each token adds to it. Several labels of a row are one text.
    """
    predicted, chances = bundle.decision.predictions(scores.logits)
    positions, classes = mistakes_to_show(scores.labels, predicted, chances, NUM_MISTAKES)
    rows, labels = scores.rows[positions].tolist(), label_texts(scores.labels[positions], bundle.labels)
    ids_by_row = {}
    for block in split.blocks:
        for position in np.flatnonzero(np.isin(block.row, rows)):
            ids_by_row[int(block.row[position])] = block.ids[position, : block.length[position]]
    mistakes = []
    columns = rows, labels, classes.tolist(), chances[positions, classes].tolist()
    for row, label, number, probability in zip(*columns, strict=True):
        ids = ids_by_row[row]
        mistake = {
            "row": row,
            "label": label,
            "predicted": bundle.labels[number],
            "probability": probability,
            "tokens": bundle.vocabulary.tokens.take(ids).to_pylist(),
            "weights": bundle.attribute(ids, number).scores.round(4).tolist(),
        }
        mistakes.append(mistake)
    return sorted(mistakes, key=lambda mistake: -mistake["probability"])
