# SPDX-License-Identifier: Apache-2.0
"""``python -m harness explain``: texts, or the rows of a file, explained on the screen, as JSON or as one HTML page."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.inference.config import STDIN, ExplainConfig, Form
from harness.inference.explanation import GENERATOR, Explained, check_label, write_all
from harness.inference.rows import KINDS, find, lines_of_stdin, reading_by, texts_in
from harness.rundir.bundle_files import BundleInfo, bundle_directory, check_classifier, read_info
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen, bare
from preprocessing.corpus import addresses

WRITTEN_BY_US: dict[Form, tuple[str, ...]] = {
    "html": (f'<meta name="generator" content="{GENERATOR}">',),
    "json": ('"tokens": ', '"scores": ', '"baseline": '),
    "text": ("\nfor ", "\nagainst: "),
}
"""What a file of each form contains."""
Numbered = tuple[int | None, str]
"""A text, and its row in a file."""


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
    numbered = from_words(texts) if config.input is None else from_table(config, bundle, info, config.input)
    if config.output is not None:
        check_output(config, config.output, form)
    first = next(numbered, None)  # a wrong file is refused before weights are read
    if first is None:
        raise DataError(f"{config.input}: holds no rows")
    found = explained(config, bundle, itertools.chain([first], numbered))
    if config.output is None:
        write_all(bare(sys.stdout) if form == "html" else sys.stdout, form, run, found)
        return 0
    with (
        storing(config.output, otherwise="name another --output"),
        atomic.replacing(config.output) as temporary,
        open(temporary, "w", encoding="utf-8") as stream,
    ):
        number = write_all(stream, form, run, found)
    Screen(quiet=config.quiet).say(f"{number:,} explanation{'s' * (number != 1)} written to {config.output}")
    return 0


def check_output(config: ExplainConfig, output: str, form: Form) -> None:
    """Raise ``ConfigError`` for an output that is the input, or that holds no explanations and may not be replaced."""
    path = Path(output)
    named = [] if config.input in (None, STDIN) else addresses.find(str(config.input))
    if any(path.exists() and os.path.exists(name) and path.samefile(name) for name in named):
        raise ConfigError(f"--output {output}: is the input; name another file")
    check_replaced(path, config.overwrite, lambda: all(atomic.says(path, words) for words in WRITTEN_BY_US[form]))


def from_words(texts: list[str]) -> Iterator[list[Numbered]]:
    """Texts of the command line, or as they come on standard input."""
    for some in lines_of_stdin() if texts == [STDIN] else [texts]:
        yield [(None, text) for text in some]


def from_table(config: ExplainConfig, bundle: Path, info: BundleInfo, name: str) -> Iterator[list[Numbered]]:
    """The rows of a file, or of several, as ``predict`` reads them. Raises ``DataError`` for the first that cannot be
    read, before any is given if all are.
    """
    with temporary_folder() as work:
        found = find([name], config.input_format, config, reading_by(config, bundle, info), work)
        if config.rows is None:
            for _ in texts_in(found, work):
                pass  # each row is looked at
        number = 0
        for texts in texts_in(found, work):
            some = texts[: None if config.rows is None else config.rows - number]
            if some:
                yield list(enumerate(some, number + 1))
            number += len(some)
            if number == config.rows:
                return


def explained(config: ExplainConfig, bundle: Path, numbered: Iterator[list[Numbered]]) -> Iterator[Explained]:
    """Each text explained, a batch at a time."""
    import torch

    from harness.inference.explainer import explain
    from harness.inference.torch_scorer import TorchScorer
    from harness.ranks.precision import choose_device, full_fp32

    full_fp32()
    scorer = TorchScorer(bundle)
    scorer.bundle.model.to(torch.device(choose_device(config.device).value))
    for some in numbered:
        for start in range(0, len(some), config.batch):
            batch = some[start : start + config.batch]
            for (number, _), one in zip(batch, explain(scorer, [text for _, text in batch], config.label), strict=True):
                yield number, one
