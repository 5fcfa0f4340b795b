# SPDX-License-Identifier: Apache-2.0
"""``bench predict``: rows/s from raw text, and how long a single text takes, beside what people write today.

The plain loop is the notebook's: pandas, BeautifulSoup, NLTK's tokens, stop words and lemmas one text at a time, then a
network of the bundle's sizes over rows padded to the maximum, 32 at once. The linear one is a scikit-learn pipeline,
TF-IDF of words and pairs with logistic regression. All of these have one core and are timed by its own time, which a
busy neighbour hardly changes; what all cores do together is timed by the clock on the wall.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from harness.bench import alternate, check_sizes, result, show
from harness.config import require
from harness.inference.pieces import CHUNK_ROWS, Wanted
from harness.predicting import parts
from harness.predicting.config import PredictConfig
from harness.predicting.inputs import find
from harness.predicting.parts import Opening
from harness.predicting.scorers import SCORERS, Scorer, scorer_class
from harness.rundir.training_facts import Reading
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.storage import temporary_folder
from preprocessing.config import ExecutorConfig, SourceConfig
from preprocessing.job.bench import UnavailableError, notebook, notebook_with_regex
from preprocessing.job.executors import Workers, available_cores, workers
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import PAD, UNK

Texts = Sequence[str]
Turn = Callable[[Texts], object]
PLAIN_BATCH = 32
LOOP, LINEAR = "the notebook's loop", "scikit-learn, TF-IDF and logistic regression"
SLOWEST = 200
"""Texts a turn of the notebook's loop, and texts that are timed one by one."""


@dataclass(frozen=True, kw_only=True)
class PredictBenchConfig:
    """Predictions of raw texts, on one core and on all of them, beside the notebook's loop and a linear pipeline."""

    run: str
    """Run directory (or bundle directory) whose best weights predict."""
    input: str
    """File with texts: .csv, .tsv, .jsonl, .parquet or .txt."""
    column: str = "text"
    """Column of the input that holds the text."""
    rows: int = 4000
    """Texts a turn, the first of the input."""
    rounds: int = 3
    """Turns of each contender."""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """What ours computes in; fp32 is measured too."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self, "rows", "rounds")
        require(self.rows >= 2, "rows", self.rows, "at least 2")


def main(config: PredictBenchConfig) -> None:
    """Measure and print."""
    values = measure(config)
    show(values, as_json=config.json)
    if config.json:
        return
    every = values["all_cores"]
    print(f"ours, {every['processes']} processes: {every['rows_per_s']:,.0f} rows/s")
    print(f"{'a single text':<46} {'p50 ms':>10} {'p99 ms':>10}")
    for name, times in values["single_text_ms"].items():
        print(f"{name:<46} {times['p50']:>10.2f} {times['p99']:>10.2f}")
    for name, reason in values["unavailable"].items():
        print(f"not measured: {name}: {reason}")


def measure(config: PredictBenchConfig) -> dict[str, Any]:
    """Rows/s of each contender on one core, ours on all cores, and milliseconds of a single text."""
    texts = first_texts(config)
    unavailable: dict[str, str] = {}
    settled = scorer_class("torch").settle("cpu", config.precision)
    opening = Opening("torch", config.run, settled, 1024)
    ours = Ours(opening)
    turns: dict[str, tuple[Turn, Texts]] = {"ours": (ours, texts)}
    for name in SCORERS:
        other = Opening(name, config.run, {"device": "cpu", "precision": "fp32"}, 1024)
        if other != opening:
            try:
                turns[f"ours, {name} in fp32"] = Ours(other), texts
            except (ConfigError, DataError) as error:
                unavailable[name] = str(error)
    loop = NotebookLoop(ours.scorer)
    turns[LOOP] = loop, texts[:SLOWEST]
    if loop.missing:
        unavailable["the notebook's own text code; a regular expression and str.split stand in for it"] = loop.missing
    turns[LINEAR] = linear(texts, ours(texts)), texts
    contenders = {name: turn(run, some) for name, (run, some) in turns.items()}
    seconds = alternate(contenders, config.rounds, clock=time.process_time)
    values = result("rows/s", {name: len(turns[name][1]) / median for name, median in seconds.items()})
    cores = available_cores()
    with workers(ExecutorConfig(workers=cores), quiet=True) as crew:
        wall = alternate({"ours": lambda: by_all(crew, opening, texts)}, config.rounds)["ours"]
    values["all_cores"] = {"processes": cores, "rows_per_s": len(texts) / wall}
    values["ours_details"] = ours.shares()
    values["precision"] = settled["precision"]
    values["unavailable"] = unavailable
    values["single_text_ms"] = {name: one_by_one(run, texts[:SLOWEST]) for name, (run, _) in turns.items()}
    return values


def first_texts(config: PredictBenchConfig) -> list[str]:
    """The first texts of the input. Raises ``DataError`` where there are none."""
    asked = PredictConfig(run=config.run, input=config.input, output="rows/", missing="keep")
    with temporary_folder() as work:
        tables = (
            one.table(Wanted([config.column], missing=True)) for one in find(asked, Reading(SourceConfig()), work)
        )
        pieces = (piece.texts for table in tables for piece in table.pieces())
        texts = list(itertools.islice(itertools.chain.from_iterable(pieces), config.rows))
    if len(texts) < 2:
        raise DataError(f"{config.input}: holds too few rows to measure with; name a larger file")
    return texts


def turn(run: Turn, texts: Texts) -> Callable[[], None]:
    """A turn of a contender on one core."""

    def timed() -> None:
        with one_core():
            run(texts)

    return timed


@contextmanager
def one_core() -> Iterator[None]:
    """What runs in the block has one core and one thread."""
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


class Ours:
    """What ``predict`` does with the rows of a part, and how long each half of it takes."""

    def __init__(self, opening: Opening) -> None:
        """Open the weights. Raises what the scorer raises."""
        self.scorer = scorer_class(opening.scorer)(opening.run, opening.settled, opening.batch)
        self.encode_s = self.score_s = 0.0

    def __call__(self, texts: Texts) -> np.ndarray:
        """Logits of all texts."""
        found = []
        for start in range(0, len(texts), CHUNK_ROWS):
            began = time.perf_counter()
            encoded = self.scorer.encode(list(texts[start : start + CHUNK_ROWS]))
            between = time.perf_counter()
            found.append(self.scorer.score(encoded))
            self.encode_s += between - began
            self.score_s += time.perf_counter() - between
        return np.concatenate(found)

    def shares(self) -> dict[str, float]:
        """Of the time: for the text, and for the model."""
        total = self.encode_s + self.score_s
        return {"text": self.encode_s / total, "model": self.score_s / total}


def score_some(work: tuple[Opening, list[str]]) -> int:
    """Some texts, by whichever process is free."""
    opening, texts = work
    scorer = parts.scorer_of(opening)
    return len(scorer.score(scorer.encode(texts)))


def by_all(crew: Workers, opening: Opening, texts: Texts) -> None:
    """All texts, by processes that are there already."""
    size = max(1, min(CHUNK_ROWS, len(texts) // max(2 * crew.alive(), 2)))
    tasks = [(opening, list(texts[start : start + size])) for start in range(0, len(texts), size)]
    done = sum(made for _, made in crew.map(score_some, tasks, what="bench", tick=lambda alive: None))
    assert done == len(texts)


class NotebookLoop:
    """Texts one at a time in Python, then a plain network, 32 rows at once, all padded to the maximum."""

    missing = ""
    """Why the notebook's own text code could not be had."""

    def __init__(self, scorer: Scorer) -> None:
        """A network of the same sizes, with random weights: they do not change the time that it takes."""
        bundle: Any = scorer.bundle  # type: ignore[attr-defined]
        shape, self.spec = bundle.info.model, bundle.pipeline.spec
        words = bundle.vocabulary.tokens.to_pylist()
        self.ids = {word: number for number, word in enumerate(words)}
        self.prepare = self.text_code()
        self.embedding = nn.Embedding(len(words), shape["embedding_dim"], padding_idx=PAD)
        options = {"batch_first": True, "bidirectional": shape["bidirectional"]}
        self.lstm = nn.LSTM(shape["embedding_dim"], shape["hidden_size"], shape["num_layers"], **options)
        width = shape["hidden_size"] * (2 if shape["bidirectional"] else 1)
        self.head = nn.Linear(width, 1 if len(scorer.labels) == 2 else len(scorer.labels))

    def text_code(self) -> Callable[[Texts], Any]:
        """The notebook's: HTML, lower case, tokens, stop words, lemmas; with what is installed here."""
        try:
            return notebook(TextSpec(stop_words="nltk", lemmatizer="wordnet"))
        except (UnavailableError, DataError) as error:
            self.missing = str(error)
        for simpler in (TextSpec(stop_words="stop-words", lemmatizer="simplemma"), TextSpec()):
            try:
                return notebook_with_regex(simpler)
            except (UnavailableError, DataError) as error:
                self.missing += f"; {error}"
        raise DataError(f"{LOOP}: {self.missing}")

    @torch.no_grad()
    def __call__(self, texts: Texts) -> list[float]:
        """Probabilities."""
        rows = [[self.ids.get(word, UNK) for word in tokens] for tokens in self.prepare(texts)]
        length, found = self.spec.max_tokens, []
        for start in range(0, len(rows), PLAIN_BATCH):
            some = rows[start : start + PLAIN_BATCH]
            padded = torch.tensor([(row + [PAD] * length)[:length] for row in some])
            outputs, _ = self.lstm(self.embedding(padded))
            found += torch.sigmoid(self.head(outputs.amax(1)))[:, 0].tolist()
        return found


def linear(texts: Texts, logits: np.ndarray) -> Turn:
    """A fitted pipeline of scikit-learn; its labels are what ours said, since the texts need have none."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = (logits > np.median(logits)).astype(int) if logits.ndim == 1 else logits.argmax(1)
    if len(set(labels.tolist())) < 2:
        labels = np.arange(len(texts)) % 2
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: only its time is measured
        pipeline.fit(list(texts), labels)
    return lambda some: pipeline.predict_proba(list(some))


def one_by_one(run: Turn, texts: Texts) -> dict[str, float]:
    """Milliseconds of a call with one text: the median, and what one in a hundred exceeds."""
    times = []
    with one_core():
        for text in texts:
            began = time.perf_counter()
            run([text])
            times.append(time.perf_counter() - began)
    return {"p50": 1e3 * float(np.percentile(times, 50)), "p99": 1e3 * float(np.percentile(times, 99))}
