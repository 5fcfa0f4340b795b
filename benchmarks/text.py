# SPDX-License-Identifier: Apache-2.0
"""``text``: texts/s of a configuration of preprocessing beside what people use today: same texts, one core.

Every peer does the work it is known for: the notebook cleans, tokenizes, removes stop words and lemmatizes one text at
a time; the others only tokenize and count.
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

from benchmarks.measuring import Measured, Size, alternate, one_core, peer_module, printed, result
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import DataError
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.rows import read
from preprocessing.corpus.sources import files, scan
from preprocessing.text import resources
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer

Run = Callable[[Sequence[str]], object]
SLOW_SAMPLE, SAMPLE = 400, 4000
"""Texts given to a peer per round: the ones that take milliseconds per text get fewer."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(PreprocessConfig, Measured):
    """Documents per second of a configuration, beside pandas + NLTK, HF tokenizers, CountVectorizer and others.

    One core each, alternating, medians. It takes every key that preprocessing run takes.
    """

    output: str = "unused"
    """Nothing is written."""
    texts: Size = 25_000
    """Texts to read at most."""


def measure(texts: list[str], spec: TextSpec, rounds: int = 3) -> dict[str, Any]:
    """Documents/s, one core each; ours at steady state, after one pass over the texts.

    Raises ``DataError`` without texts, or when ``spec`` or a peer needs what is not installed.
    """
    if not texts:
        raise DataError("there are no texts to measure with; check the source")
    tokenizer = Tokenizer(resolve(spec))
    whole = pa.array(texts, pa.large_string())
    tokenizer(whole)
    turns: dict[str, tuple[Run, Sequence[str]]] = {"ours": (lambda _: tokenizer(whole), texts)}
    for name, (build, sample) in PEERS.items():
        turns[name] = build(spec, texts), texts[:sample]
    with one_core():
        seconds = alternate({name: functools.partial(run, some) for name, (run, some) in turns.items()}, rounds)
    rates = {name: len(turns[name][1]) / median for name, median in seconds.items()}
    corpus = {"texts": len(texts), "characters_per_text": sum(map(len, texts)) / len(texts), "rounds": rounds}
    return result("docs/s", rates, corpus=corpus)


def stop_words_and_lemma(spec: TextSpec) -> tuple[set[str], Callable[[str], str]]:
    """What the notebook uses, as the spec names it: NLTK's own lemmatizer called once per token."""
    stop_words = set(resources.stop_words(spec))
    if spec.lemmatizer == "wordnet":
        resources.WordNet(spec.wordnet_pos)  # raises when the data is missing
        return stop_words, peer_module("nltk.stem").WordNetLemmatizer().lemmatize
    if spec.lemmatizer == "simplemma":
        return stop_words, resources.simplemma(spec.language)
    return stop_words, lambda token: token


def notebook(spec: TextSpec, _: Sequence[str] = ()) -> Run:
    """The notebook's tokens of each text. Raises ``DataError`` where something is missing."""
    soup, pandas = peer_module("bs4").BeautifulSoup, peer_module("pandas")
    word_tokenize = nltk_tokens(spec)
    stop_words, lemma = stop_words_and_lemma(spec)

    def prepare(text: str) -> list[str]:
        (tokens,) = word_tokenize([soup(text, "html.parser").get_text(" ").lower()])
        return [lemma(token) for token in tokens if token not in stop_words]

    def run(texts: Sequence[str]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BeautifulSoup warns of a text that looks like an address
            return pandas.Series(texts).apply(prepare)

    return run


def nltk_tokens(*_: object) -> Callable[[Sequence[str]], list[list[str]]]:
    """NLTK's ``word_tokenize``."""
    word_tokenize = peer_module("nltk.tokenize").word_tokenize
    try:
        word_tokenize("A sentence.")
    except LookupError:
        raise DataError("NLTK's punkt_tab is not installed") from None
    return lambda texts: [word_tokenize(text) for text in texts]


def huggingface(_: TextSpec, texts: Sequence[str]) -> Run:
    """Hugging Face's tokenizers with a vocabulary of words."""
    tokenizers = peer_module("tokenizers")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    words = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    ids = {word: number for number, (word, _) in enumerate([("[UNK]", 0), *words.most_common(30_000)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return lambda some: tokenizer.encode_batch(list(some))


def count_vectorizer(*_: object) -> Run:
    """scikit-learn's."""
    vectorizer = peer_module("sklearn.feature_extraction.text").CountVectorizer
    return lambda texts: vectorizer().fit_transform(texts)


PEERS: dict[str, tuple[Callable[[TextSpec, Sequence[str]], Run], int]] = {
    "pandas + BeautifulSoup + NLTK": (notebook, SLOW_SAMPLE),
    "nltk.word_tokenize": (nltk_tokens, SLOW_SAMPLE),
    "HF tokenizers, WordLevel": (huggingface, SAMPLE),
    "CountVectorizer": (count_vectorizer, SAMPLE),
}


@printed
def main(config: TextConfig) -> dict[str, Any]:
    """Measure with the first texts of the source."""
    texts: list[str] = []
    with temporary_folder() as stage:
        for file in resolved(list(files(config.source, config.splits))).files:
            for part in scan(file, stage).parts if len(texts) < config.texts else ():
                texts += read(part).texts.to_pylist()
    return measure(texts[: config.texts], config.text, config.rounds)
