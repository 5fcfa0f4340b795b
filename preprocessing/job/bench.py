# SPDX-License-Identifier: Apache-2.0
"""How fast this configuration is beside what people use today: same texts, same core, alternating rounds, medians.

Every peer does the work it is known for: the notebook cleans, tokenizes, removes stop words and lemmatizes one text at
a time; the others only tokenize and count. A peer that cannot run here is reported with the reason.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from preprocessing.base.errors import DataError, require
from preprocessing.base.meant import MOST_ROUNDS
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.pieces import first_texts
from preprocessing.text import lemmas, stopwords
from preprocessing.text.resolve import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer

Run = Callable[[Sequence[str]], object]
SLOW_SAMPLE, SAMPLE = 400, 4000
"""Texts given to a peer per round: the ones that take milliseconds per text get fewer."""
_HTML_TAG = re.compile(r"<[^>]+>")
DISTRIBUTIONS = {"bs4": "beautifulsoup4"}
"""Whose name is not that of their module."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Documents per second of a configuration, beside pandas + NLTK, HF tokenizers, CountVectorizer and others.

    One core each, alternating, medians. Takes --config FILE and every key of run too, as in --source.path X.
    """

    json: bool = False
    """Print one JSON object instead of a table."""
    rounds: int = 3
    """Rounds to take the median of."""
    texts: int = 25_000
    """Texts to read at most."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(1 <= self.rounds <= MOST_ROUNDS, "rounds", self.rounds, f"from 1 to {MOST_ROUNDS:,}")
        require(self.texts >= 1, "texts", self.texts, "at least 1")


def main(config: BenchConfig, job: PreprocessConfig) -> None:
    """Measure documents per second beside what people use today."""
    texts = first_texts(job.source, job.splits, config.texts)
    result = run_bench(texts, job.text, config.rounds)
    print(json.dumps(result, indent=2, ensure_ascii=False) if config.json else render(result))


class UnavailableError(Exception):
    """A peer cannot run here; the message says why."""


def run_bench(texts: list[str], spec: TextSpec, rounds: int = 3) -> dict[str, Any]:
    """Measure documents per second, one core each.

    Returns ``{"unit": "docs/s", "ours": float, "peers": {name: float}, "ratios": {name: ours / peer}, "unavailable":
    {name: reason}, "machine": {…}}``: medians over ``rounds`` alternating rounds; ours at steady state, after one pass
    over the texts. Raises :class:`DataError` without texts, or when ``spec`` needs data that is not installed.
    """
    if not texts:
        raise DataError("there are no texts to measure with; check the source")
    tokenizer = Tokenizer(resolve(spec))
    ours = pa.array(texts, pa.large_string())
    contestants: dict[str, tuple[Run, Sequence[str]]] = {"ours": (lambda _: tokenizer(ours), texts)}
    unavailable: dict[str, str] = {}
    for name, (build, sample) in _peers(texts, spec).items():
        try:
            contestants[name] = build(), texts[:sample]
        except (UnavailableError, DataError) as error:
            unavailable[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with _one_core() as cores:
        for run, sample_texts in contestants.values():
            run(sample_texts[:SLOW_SAMPLE])  # imports and caches are not what we measure
        tokenizer(ours)
        for _ in range(rounds):
            for name, (run, sample_texts) in contestants.items():
                start = time.perf_counter()
                run(sample_texts)
                seconds[name].append((time.perf_counter() - start) / len(sample_texts))
    rates = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    mine = rates.pop("ours")
    return {
        "unit": "docs/s",
        "ours": mine,
        "peers": rates,
        "ratios": {name: mine / rate for name, rate in rates.items()},
        "unavailable": unavailable,
        "machine": _machine(texts, rounds, cores),
    }


def render(result: dict[str, Any]) -> str:
    """The result of :func:`run_bench` as a table for people."""
    machine = result["machine"]
    rows = [("ours (steady state)", result["ours"], "")]
    rows += [(name, rate, f"{result['ratios'][name]:.1f} ×") for name, rate in result["peers"].items()]
    width = max(len(name) for name in [row[0] for row in rows] + list(result["unavailable"]))
    lines = [f"{'':<{width}}  {'docs/s':>10}  ours is"]
    lines += [f"{name:<{width}}  {rate:>10,.0f}  {ratio}".rstrip() for name, rate, ratio in rows]
    lines += [f"{name:<{width}}  {'-':>10}  not measured: {reason}" for name, reason in result["unavailable"].items()]
    lines.append(
        f"{machine['texts']:,} texts, {machine['characters_per_text']:,.0f} characters each, "
        f"{machine['rounds']} rounds, {machine['pinned_to']}, {machine['processor']}"
    )
    return "\n".join(lines)


def _peers(texts: Sequence[str], spec: TextSpec) -> dict[str, tuple[Callable[[], Run], int]]:
    return {
        "pandas + BeautifulSoup + NLTK": (lambda: notebook(spec), SLOW_SAMPLE),
        "pandas + regex + str.split": (lambda: notebook_with_regex(spec), SLOW_SAMPLE),
        "nltk.word_tokenize": (lambda: _nltk(preserve_line=False), SLOW_SAMPLE),
        "nltk.word_tokenize, preserve_line": (lambda: _nltk(preserve_line=True), SLOW_SAMPLE),
        "HF tokenizers, WordLevel": (lambda: _hf_tokenizers(texts), SAMPLE),
        "CountVectorizer": (_count_vectorizer, SAMPLE),
        "re.findall + Counter": (lambda: _findall, SAMPLE),
    }


def _stop_words_and_lemma(spec: TextSpec) -> tuple[set[str], Callable[[str], str]]:
    """What the notebook uses, as the spec names it: NLTK's own lemmatizer called once per token."""
    stop_words = set(stopwords.load(spec.stop_words, spec.language, spec.lowercase, spec.keep_negations))
    if spec.lemmatizer == "wordnet":
        lemmas.wordnet_fingerprint()  # raises when the data is missing
        return stop_words, _import("nltk.stem").WordNetLemmatizer().lemmatize
    if spec.lemmatizer == "simplemma":
        return stop_words, lemmas.simplemma_lemmatizer(spec.language)
    return stop_words, lambda token: token


def notebook(spec: TextSpec) -> Run:
    """The notebook's tokens of each text. Raises ``UnavailableError`` or ``DataError`` where something is missing."""
    soup, pandas = _import("bs4").BeautifulSoup, _import("pandas")
    word_tokenize = _nltk(preserve_line=False)
    stop_words, lemma = _stop_words_and_lemma(spec)

    def prepare(text: str) -> list[str]:
        tokens = word_tokenize([soup(text, "html.parser").get_text(" ").lower()])[0]
        return [lemma(token) for token in tokens if token not in stop_words]

    def run(texts: Sequence[str]) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BeautifulSoup warns of a text that looks like an address
            return pandas.Series(texts).apply(prepare)

    return run


def notebook_with_regex(spec: TextSpec) -> Run:
    """The same with a regular expression in the place of BeautifulSoup, and ``str.split`` in that of NLTK."""
    pandas = _import("pandas")
    stop_words, lemma = _stop_words_and_lemma(spec)

    def prepare(text: str) -> list[str]:
        return [lemma(token) for token in _HTML_TAG.sub(" ", text).lower().split() if token not in stop_words]

    return lambda texts: pandas.Series(texts).apply(prepare)


def _nltk(preserve_line: bool) -> Callable[[Sequence[str]], list[list[str]]]:
    word_tokenize = _import("nltk.tokenize").word_tokenize
    try:
        word_tokenize("A sentence.", preserve_line=preserve_line)
    except LookupError as error:
        raise UnavailableError("NLTK's punkt_tab is not installed") from error
    return lambda texts: [word_tokenize(text, preserve_line=preserve_line) for text in texts]


def _hf_tokenizers(texts: Sequence[str]) -> Run:
    tokenizers = _import("tokenizers")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    words = [word for word, _ in _findall(texts[:SAMPLE]).most_common(30_000)]
    ids = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return lambda texts: tokenizer.encode_batch(list(texts))


def _count_vectorizer() -> Run:
    vectorizer = _import("sklearn.feature_extraction.text").CountVectorizer
    return lambda texts: vectorizer().fit_transform(texts)


def _findall(texts: Sequence[str]) -> Counter[str]:
    counter: Counter[str] = Counter()
    for text in texts:
        counter.update(_WORD.findall(text.lower()))
    return counter


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = str(error.name).partition(".")[0]
        name = DISTRIBUTIONS.get(root, root)
        raise UnavailableError(f"{root} is not installed; pip install {name} brings it") from error


@contextmanager
def _one_core() -> Iterator[str]:
    """Everything runs on one core: threads included, so no contestant gains by having more of them."""
    if not hasattr(os, "sched_setaffinity"):
        arrow = pa.cpu_count()
        pa.set_cpu_count(1)
        try:
            yield "not pinned"
        finally:
            pa.set_cpu_count(arrow)
        return
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield f"pinned to core {core}"
    finally:
        os.sched_setaffinity(0, before)


def _machine(texts: list[str], rounds: int, pinned_to: str) -> dict[str, Any]:
    packages = ("numpy", "pyarrow", "nltk", "tokenizers", "scikit-learn", "pandas")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "texts": len(texts),
        "characters_per_text": sum(map(len, texts)) / len(texts),
        "rounds": rounds,
        "pinned_to": pinned_to,
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
