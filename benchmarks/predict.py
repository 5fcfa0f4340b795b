# SPDX-License-Identifier: Apache-2.0
"""``predict``: rows/s from raw text, compared with common code.

The plain loop is from the notebook: pandas, BeautifulSoup, NLTK's tokens, stop words and lemmas one text at a time,
then a network of the bundle's sizes over rows padded to the maximum, 32 at once. The TF-IDF baseline is a scikit-learn
pipeline, TF-IDF of words and pairs with logistic regression. All run on one core and are timed in CPU time, which other
load on the machine hardly changes.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import nn

from benchmarks.measuring import BenchmarkConfig, alternate, cores, print_result, read_frame
from benchmarks.text import notebook
from harness.inference.predict import BLOCK_ROWS
from harness.inference.scorer import Scorer, open_scorer
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import PAD, UNK

Texts = Sequence[str]
LOOP, LINEAR = "the notebook's loop", "scikit-learn, TF-IDF and logistic regression"
SLOWEST = 200
"""Maximum texts per turn for the notebook's loop."""


@dataclass(frozen=True, kw_only=True)
class PredictBenchmark(BenchmarkConfig):
    """Predictions of raw texts on one core, compared with the notebook's loop and a linear pipeline."""

    run: str
    """Run directory or bundle whose best weights predict."""
    input: str
    """File with a column text: .csv or .parquet."""
    rows: Annotated[int, Meta(ge=2, le=1 << 24)] = 4000
    """Texts per turn, the first of the input."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of ours."""


def main(config: PredictBenchmark) -> None:
    """Rows/s of each contender on one core. Raises ``DataError`` without texts."""
    texts = read_frame(Path(config.input))["text"].map(str).head(config.rows).tolist()
    scorer = open_scorer(config.run, "torch", threads=1, precision=config.precision)
    turns: dict[str, tuple[Callable[[Texts], object], Texts]] = {"ours": (functools.partial(logits, scorer), texts)}
    turns[LOOP] = NotebookLoop(scorer), texts[:SLOWEST]
    turns[LINEAR] = linear_predictor(texts), texts
    torch.set_num_threads(1)
    with cores(1):
        contenders = {name: functools.partial(run, sample) for name, (run, sample) in turns.items()}
        seconds = alternate(contenders, config.rounds, clock=time.process_time)
    speeds = {name: len(turns[name][1]) / median for name, median in seconds.items()}
    print_result(config, "rows/s", speeds, precision=scorer.arithmetic["precision"])


def logits(scorer: Scorer, texts: Texts) -> np.ndarray:
    """The work of ``predict`` for the rows of a part."""
    chunks = (list(texts[start : start + BLOCK_ROWS]) for start in range(0, len(texts), BLOCK_ROWS))
    return np.concatenate([scorer.score(scorer.encoder.encode_each(chunk)) for chunk in chunks])


class NotebookLoop:
    """Preprocess texts one at a time in Python, then run a plain network, 32 rows at once, padded to the maximum."""

    def __init__(self, scorer: Scorer) -> None:
        """A network of the same sizes, with random weights, which do not affect the time."""
        shape, self.length = scorer.info.model, scorer.encoder.pipeline.spec.max_tokens
        self.ids = {word: number for number, word in enumerate(scorer.vocabulary.tokens.to_pylist())}
        self.tokens: Callable[[Texts], Any] = notebook(TextSpec(stop_words="nltk", lemmatizer="wordnet"))
        self.embedding = nn.Embedding(len(self.ids), shape.embedding_dim, padding_idx=PAD)
        options = {"batch_first": True, "bidirectional": shape.bidirectional}
        self.lstm = nn.LSTM(shape.embedding_dim, shape.hidden_size, shape.num_layers, **options)
        self.head = nn.Linear(shape.hidden_size * (1 + shape.bidirectional), 1)

    @torch.no_grad()
    def __call__(self, texts: Texts) -> list[float]:
        """Probabilities."""
        rows = [[self.ids.get(word, UNK) for word in tokens] for tokens in self.tokens(texts)]
        probabilities: list[float] = []
        for start in range(0, len(rows), 32):
            padded = [(row + [PAD] * self.length)[: self.length] for row in rows[start : start + 32]]
            outputs, _ = self.lstm(self.embedding(torch.tensor(padded)))
            probabilities += torch.sigmoid(self.head(outputs.amax(1)))[:, 0].tolist()
        return probabilities


def linear_predictor(texts: Texts) -> Callable[[Texts], object]:
    """A fitted scikit-learn pipeline, trained on arbitrary labels, so texts need no labels."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may not converge, but only its time is measured
        pipeline.fit(list(texts), np.arange(len(texts)) % 2)
    return lambda sample: pipeline.predict_proba(list(sample))
