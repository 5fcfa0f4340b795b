# SPDX-License-Identifier: Apache-2.0
"""``python -m harness explain``: what each word of a text adds, as calibrated log-odds of a class; of texts, or of the
rows of a file, on the screen, as JSON or as one HTML page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.inference.config import STDIN, ExplainConfig, Form
from harness.inference.explanation import GENERATOR, Explained, Explanation, check_label, write_all
from harness.inference.rows import KINDS, find, lines_of_stdin, reading_by, refuse_input, texts_in
from harness.rundir.bundle_files import bundle_directory, check_classifier, read_info
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen, bare
from preprocessing.corpus.sources import File
from preprocessing.text.encoder import Encoded, Encoder, Span, kept_at_head, spans_of
from preprocessing.text.tokenizer import Tokens

if TYPE_CHECKING:
    from harness.inference.bundle import TorchScorer
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


def explained(config: ExplainConfig, bundle: Path, chunks: Iterator[list[str]], numbered: bool) -> Iterator[Explained]:
    """Each text explained, a batch at a time, with its row if they are ``numbered``."""
    import torch

    from harness.inference.bundle import TorchScorer
    from harness.ranks.precision import choose_device, full_fp32

    full_fp32()
    scorer = TorchScorer(bundle)
    scorer.bundle.model.to(torch.device(choose_device(config.device).value))
    row = 0
    for texts in chunks:
        for start in range(0, len(texts), config.batch):
            for one in explain(scorer, texts[start : start + config.batch], config.label):
                row += 1
                yield (row if numbered else None), one


def explain(scorer: TorchScorer, texts: Sequence[str], label: str | None = None) -> list[Explanation]:
    """Each text with what its words add to ``label``, or to the class predicted for it, computed where the model is.

    Raises ``ConfigError`` for a class that the model does not have.
    """
    labels, decision, model = scorer.labels, scorer.decision, scorer.bundle.model
    if label is not None:
        check_label(label, labels)
    if not texts:
        return []
    tokens = scorer.encoder.tokens(list(texts))
    encoded = scorer.encoder.encode(tokens)
    ids = [part.astype(np.int64) for part in np.split(encoded.ids, encoded.offsets[1:-1])]
    calibrated = decision.calibrated(scorer.score(ids))
    predicted, chances = predicted_labels(calibrated, decision.threshold), probabilities(calibrated)
    classes = predicted if label is None else np.full(len(texts), labels.index(label))
    result = []
    for row, found in enumerate(added(model, ids, classes.tolist())):
        number = int(classes[row])
        one = Explanation(
            text=texts[row],
            label=labels[number],
            predicted=labels[int(predicted[row])],
            probability=float(chances[row, number]),
            tokens=tuple(scorer.vocabulary.tokens.take(ids[row]).to_pylist()),
            spans=tuple(places(scorer.encoder, texts[row], row, tokens, encoded)),
            num_tokens=int(encoded.num_tokens[row]),
            scores=tuple(decision.calibrated(found.scores).tolist()),
            logit=float(decision.calibrated(np.array(found.logit))),
            baseline=float(decision.calibrated(np.array(found.baseline))),
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


def places(encoder: Encoder, text: str, row: int, tokens: Tokens, encoded: Encoded) -> list[Span | None]:
    """Where the tokens that were read stand in the text of this row."""
    codes, spec = tokens.codes[tokens.offsets[row] : tokens.offsets[row + 1]], encoder.pipeline.spec
    if not len(codes):
        return [None]
    length = int(encoded.offsets[row + 1] - encoded.offsets[row])
    at_head = kept_at_head(spec) if len(codes) > length else length
    parts = (codes[:at_head], codes[len(codes) - (length - at_head) :])
    first, last = (tokens.types.take(part).to_pylist() for part in parts)
    return spans_of(text, first, last, lambda some: encoder.tokens(some).to_lists(), strip_html=spec.html)
