# SPDX-License-Identifier: Apache-2.0
"""``text``: texts/s of a preprocessing configuration and of common alternatives, for the same texts on one core.

The notebook cleans, tokenizes, removes stop words and lemmatizes one text at a time; the other peer only tokenizes.
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

from benchmarks.measuring import BenchmarkConfig, Size, alternate, cores, peer_module, print_result
from padless.core.errors import DataError
from preprocessing.config import PreprocessConfig
from preprocessing.sources import columns
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import list_files
from preprocessing.text import resources
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer

Run = Callable[[Sequence[str]], object]
SLOW_SAMPLE, SAMPLE = 400, 4000
"""Texts per round for slow peers, which take milliseconds per text, and for the others."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(PreprocessConfig, BenchmarkConfig):
    """Documents per second of a configuration, compared with pandas + NLTK and HF tokenizers.

    Contenders take turns on one core; the median counts. It has all keys of padless prepare.
    """

    output: str = "unused"
    """Not used."""
    texts: Size = 25_000
    """Maximum number of texts."""


def notebook(spec: TextSpec, _: Sequence[str] = ()) -> Run:
    """The notebook's tokens of each text. Raises ``DataError`` if something is not installed."""
    soup, pandas = peer_module("bs4").BeautifulSoup, peer_module("pandas")
    word_tokenize = peer_module("nltk.tokenize").word_tokenize
    try:
        word_tokenize("A sentence.")
    except LookupError:
        raise DataError("the notebook needs NLTK's punkt_tab: python -m nltk.downloader punkt_tab") from None
    stop_words = set(resources.stop_words(spec))
    lemma: Callable[[str], str] = str
    if spec.lemmatizer == "wordnet":
        resources.WordNet()  # raises when the data is missing
        lemma = peer_module("nltk.stem").WordNetLemmatizer().lemmatize

    def prepare(text: str) -> list[str]:
        tokens = word_tokenize(soup(text, "html.parser").get_text(" ").lower())
        return [lemma(token) for token in tokens if token not in stop_words]

    def run(texts: Sequence[str]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BeautifulSoup warns if a text looks like a URL
            return pandas.Series(texts).apply(prepare)

    return run


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


PEERS: dict[str, tuple[Callable[[TextSpec, Sequence[str]], Run], int]] = {
    "pandas + BeautifulSoup + NLTK": (notebook, SLOW_SAMPLE),
    "HF tokenizers, WordLevel": (huggingface, SAMPLE),
}


def main(config: TextConfig) -> None:
    """Measure on one core, on the first texts of the source; ours with warm caches, after one pass over them."""
    texts: list[str] = []
    for file in columns.resolve_source(list(list_files(config.source, config.splits))).files:
        batches = open_reader(file).batches()
        while len(texts) < config.texts and (batch := next(batches, None)) is not None:
            texts += (text or "" for text in batch.texts().to_pylist())
    tokenizer = Tokenizer(resolve_pipeline(config.text))
    column = pa.array(texts[: config.texts], pa.large_string())
    tokenizer(column)
    turns: dict[str, tuple[Run, Any]] = {"ours": (lambda _: tokenizer(column), column)}
    for name, (build, sample) in PEERS.items():
        try:
            turns[name] = build(config.text, texts), texts[:sample]
        except DataError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=1)
    with cores(1):
        contenders = {name: functools.partial(run, sample) for name, (run, sample) in turns.items()}
        seconds = alternate(contenders, config.rounds)
    speeds = {name: len(turns[name][1]) / median for name, median in seconds.items()}
    print_result(config, "docs/s", speeds, texts=len(column))
