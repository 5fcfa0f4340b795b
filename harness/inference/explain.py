# SPDX-License-Identifier: Apache-2.0
"""``python -m harness explain``: what each word of a text adds, as calibrated log-odds of a class; of texts, or of the
rows of a file, on the screen, as JSON or as one HTML page.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.inference.config import STDIN, ExplainConfig, Form
from harness.inference.explanation import GENERATOR, Explained, Explanation, check_label, places, write_all
from harness.inference.rows import KINDS, find, lines_of_stdin, reading_by, refuse_input, texts_in
from harness.rundir.bundle_files import bundle_directory, check_classifier, read_info
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen, bare
from preprocessing.corpus.sources import File

if TYPE_CHECKING:
    from harness.inference.bundle import Bundle
    from harness.model.attribution import Attribution
    from harness.model.classifier import Classifier

WRITTEN_BY_US: dict[Form, tuple[str, ...]] = {
    "html": (f'<meta name="generator" content="{GENERATOR}">',),
    "json": ('"tokens": ', '"scores": ', '"baseline": '),
    "text": ("\nfor ", "\nagainst: "),
}
"""What a file of each form contains."""


def main(config: ExplainConfig, words: list[str]) -> int:
    """Explain the texts given, or the rows of the input file, with the best weights of a run."""
    if config.run is None and not words:
        raise ConfigError('no run named: explain RUN "text" takes a run directory, then texts')
    run, texts = (words[0], words[1:]) if config.run is None else (config.run, words)
    if bool(texts) == (config.input is not None):
        raise ConfigError('nothing to explain: give texts (runs/mine "a fine film"), - or --input FILE (not both)')
    for text in texts:
        if Path(text).suffix.lower() in KINDS and os.path.isfile(text):
            raise ConfigError(f"{text}: a file, not a text; explain its rows with --input {text}")
    form, bundle = config.form, bundle_directory(run)
    info = read_info(bundle)
    check_classifier(bundle, info)
    if config.label is not None:
        check_label(config.label, info.labels)
    with ExitStack() as stack:
        files: list[File] = []
        chunks = lines_of_stdin() if texts == [STDIN] else iter([texts])
        if config.input is not None:
            work, reading = stack.enter_context(temporary_folder()), reading_by(config.given, bundle, info)
            files = find([config.input], config.input_format, config.given, reading, work)
            chunks = first_rows(texts_in(files, work), config.rows)
        stream = bare(sys.stdout) if form == "html" else sys.stdout
        if config.output is not None:
            path = Path(config.output)
            refuse_input(path, files)
            check_replaced(path, config.overwrite, lambda: all(atomic.says(path, one) for one in WRITTEN_BY_US[form]))
            stack.enter_context(storing(path, otherwise="name another --output"))
            temporary = stack.enter_context(atomic.replacing(path))
            stream = stack.enter_context(open(temporary, "w", encoding="utf-8"))
        if files and config.rows is None:
            for _ in texts_in(files, work):
                pass  # a wrong row is refused before any is explained
        number = write_all(stream, form, run, explained(config, bundle, chunks, bool(files)))
        if not number:
            raise DataError(f"{config.input}: holds no rows")
    if config.output is not None:
        Screen(quiet=config.quiet).say(f"{number:,} explanation{'s' * (number != 1)} written to {config.output}")
    return 0


def first_rows(chunks: Iterator[list[str]], most: int | None) -> Iterator[list[str]]:
    """At most so many texts; no more is read than that."""
    for texts in chunks:
        yield texts[:most]
        most = None if most is None else most - len(texts)
        if most is not None and most <= 0:
            return


def explained(
    config: ExplainConfig, directory: Path, chunks: Iterator[list[str]], numbered: bool
) -> Iterator[Explained]:
    """Each text explained, a batch at a time, with its row if they are ``numbered``."""
    from harness.inference.bundle import Bundle
    from harness.ranks.precision import choose_device, full_fp32

    full_fp32()
    bundle = Bundle(directory)
    bundle.model.to(choose_device(config.device).value)
    rows = itertools.count(1)
    for texts in chunks:
        for start in range(0, len(texts), config.batch):
            for one in explain(bundle, texts[start : start + config.batch], config.label):
                yield next(rows) if numbered else None, one


def explain(bundle: Bundle, texts: Sequence[str], label: str | None = None) -> list[Explanation]:
    """Each text with what its words add to ``label``, or to the class predicted for it, computed where the model is.

    Raises ``ConfigError`` for a class that the model does not have.
    """
    labels, calibrated = bundle.labels, bundle.decision.calibrated
    if label is not None:
        check_label(label, labels)
    if not texts:
        return []
    encoded = bundle.encoder(list(texts))
    ids = [part.astype(np.int64) for part in np.split(encoded.ids, encoded.offsets[1:-1])]
    logits = calibrated(bundle.score(ids))
    predicted, chances = predicted_labels(logits, bundle.decision.threshold), probabilities(logits)
    classes = predicted if label is None else np.full(len(texts), labels.index(label))
    result = []
    for row, (text, found) in enumerate(zip(texts, added(bundle.model, ids, classes.tolist()), strict=True)):
        tokens = bundle.vocabulary.tokens.take(ids[row]).to_pylist()
        one = Explanation(
            text=text,
            label=labels[classes[row]],
            predicted=labels[predicted[row]],
            probability=float(chances[row, classes[row]]),
            tokens=tuple(tokens),
            spans=tuple(places(text, tokens, bundle.encoder.tokens, bundle.encoder.pipeline.spec)),
            num_tokens=int(encoded.num_tokens[row]),
            scores=tuple(calibrated(found.scores).tolist()),
            logit=float(calibrated(np.array(found.logit))),
            baseline=float(calibrated(np.array(found.baseline))),
            points=found.points,
        )
        result.append(one)
    return result


def added(model: Classifier, ids: Sequence[np.ndarray], classes: Sequence[int]) -> Iterator[Attribution]:
    """What each token of a text adds to the logit of its class, before calibration."""
    from harness.model.attribution import attributions

    two = model.num_classes == 2
    for label, one in zip(classes, attributions(model, ids, [0] * len(ids) if two else classes), strict=True):
        against = two and label == 0  # the one logit is that of class 1
        yield replace(one, scores=-one.scores, logit=-one.logit, baseline=-one.baseline) if against else one
