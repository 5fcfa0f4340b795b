# SPDX-License-Identifier: Apache-2.0
"""``text``: texts/s of a preprocessing configuration and of common alternatives, for the same texts on one core.

The notebook cleans, tokenizes, removes stop words and lemmatizes one text at a time; the other peers only tokenize and
count.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from benchmarks.measuring import BenchmarkConfig, Size, alternate, cores, peer, peer_module, print_result, result
from preprocessing.base.errors import DataError
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import columns
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import list_files
from preprocessing.text import resources
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer

Run = Callable[[Sequence[str]], object]
SLOW_SAMPLE, SAMPLE = 400, 4000
"""Texts per round for slow peers, which take milliseconds per text, and for the others."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(PreprocessConfig, BenchmarkConfig):
    """Documents per second of a configuration, compared with pandas + NLTK, HF tokenizers, CountVectorizer and others.

    Contenders take turns on one core; the median counts. It has all keys of padless prepare.
    """

    output: str = "unused"
    """Not used."""
    texts: Size = 25_000
    """Maximum number of texts."""


def measure_tokenizers(texts: list[str], spec: TextSpec, rounds: int = 3) -> dict[str, Any]:
    """Documents/s on one core; ours with warm caches, after one pass over the texts.

    Raises ``DataError`` without texts, or if something that ``spec`` needs is not installed.
    """
    if not texts:
        raise DataError("there are no texts to measure with; check the source")
    tokenizer = Tokenizer(resolve_pipeline(spec))
    column = pa.array(texts, pa.large_string())
    tokenizer(column)
    turns: dict[str, tuple[Run, Sequence[str]]] = {"ours": (lambda _: tokenizer(column), texts)}
    left_out: dict[str, str] = {}
    for name, (build, sample) in PEERS.items():
        turns |= peer(left_out, name, functools.partial(build, spec, texts), texts[:sample])
    with cores(1):
        seconds = alternate({name: functools.partial(run, sample) for name, (run, sample) in turns.items()}, rounds)
    rates = {name: len(turns[name][1]) / median for name, median in seconds.items()}
    corpus = {"texts": len(texts), "characters_per_text": sum(map(len, texts)) / len(texts), "rounds": rounds}
    return result("docs/s", rates, corpus=corpus, left_out=left_out)


def stop_words_and_lemma(spec: TextSpec) -> tuple[set[str], Callable[[str], str]]:
    """Stop words and lemmatizer of the notebook for a spec: NLTK's lemmatizer, called once per token."""
    stop_words = set(resources.stop_words(spec))
    if spec.lemmatizer == "wordnet":
        resources.WordNet(spec.wordnet_pos)  # raises when the data is missing
        return stop_words, peer_module("nltk.stem").WordNetLemmatizer().lemmatize
    if spec.lemmatizer == "simplemma":
        return stop_words, resources.simplemma(spec.language)
    return stop_words, lambda token: token


def notebook(spec: TextSpec, _: Sequence[str] = ()) -> Run:
    """The notebook's tokens of each text. Raises ``DataError`` if something is not installed."""
    soup, pandas = peer_module("bs4").BeautifulSoup, peer_module("pandas")
    word_tokenize = nltk_tokens(spec)
    stop_words, lemma = stop_words_and_lemma(spec)

    def prepare(text: str) -> list[str]:
        (tokens,) = word_tokenize([soup(text, "html.parser").get_text(" ").lower()])
        return [lemma(token) for token in tokens if token not in stop_words]

    def run(texts: Sequence[str]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BeautifulSoup warns if a text looks like a URL
            return pandas.Series(texts).apply(prepare)

    return run


def nltk_tokens(*_: object) -> Callable[[Sequence[str]], list[list[str]]]:
    """NLTK's ``word_tokenize``."""
    word_tokenize = peer_module("nltk.tokenize").word_tokenize
    try:
        word_tokenize("A sentence.")
    except LookupError:
        raise DataError("needs NLTK's punkt_tab, from `python -m nltk.downloader punkt_tab`") from None
    return lambda texts: [word_tokenize(text) for text in texts]


def huggingface(_: TextSpec, texts: Sequence[str]) -> Run:
    """Hugging Face's tokenizers with a word vocabulary."""
    tokenizers = peer_module("tokenizers")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    words = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    ids = {word: number for number, (word, _) in enumerate([("[UNK]", 0), *words.most_common(30_000)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return lambda sample: tokenizer.encode_batch(list(sample))


def count_vectorizer(*_: object) -> Run:
    """scikit-learn's ``CountVectorizer``."""
    vectorizer = peer_module("sklearn.feature_extraction.text").CountVectorizer
    return lambda texts: vectorizer().fit_transform(texts)


PEERS: dict[str, tuple[Callable[[TextSpec, Sequence[str]], Run], int]] = {
    "pandas + BeautifulSoup + NLTK": (notebook, SLOW_SAMPLE),
    "nltk.word_tokenize": (nltk_tokens, SLOW_SAMPLE),
    "HF tokenizers, WordLevel": (huggingface, SAMPLE),
    "CountVectorizer": (count_vectorizer, SAMPLE),
}


@print_result
def main(config: TextConfig) -> dict[str, Any]:
    """Measure on the first texts of the source."""
    texts: list[str] = []
    for file in columns.resolve_source(list(list_files(config.source, config.splits))).files:
        batches = open_reader(file).batches()
        while len(texts) < config.texts and (batch := next(batches, None)) is not None:
            texts += (text or "" for text in batch.texts().to_pylist())
    return measure_tokenizers(texts[: config.texts], config.text, config.rounds)
