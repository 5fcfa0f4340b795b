# SPDX-License-Identifier: Apache-2.0
"""The nltk tokenizers return, token for token, what nltk.tokenize.word_tokenize returns."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nltk.tokenize import sent_tokenize, word_tokenize
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktTokenizer

from preprocessing.text import nltk_tokenizer
from preprocessing.text.html import clean
from preprocessing.text.nltk_tokenizer import Sentences
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.reference.hostile import hostile_texts

pytestmark = pytest.mark.thorough

PIECES = st.sampled_from(
    [
        ".", "..", "...", "?", "!", "?!", ",", ":", ";", "'", '"', "''", "``", "`", "(", ")", "[",
        "]", "{", "}", "<", ">",
        "--", "-", "*", "#", "$", "%", "&", "@", "’", "‘", "“", "”", "«", "»", "–", "—", " ", "  ", "\n", "\t", "\r\n",
        "cannot", "gonna", "wanna", "gimme", "more'n", "d'ye", "'tis", "'Twas", "don't", "it's",
        "they'll", "I'VE", "dogs'",
        "Mr.", "Dr.", "U.S.", "e.g.", "p.m.", "J.", "St.", "No.", "vs.", "The", "the", "I", "a",
        "Smith", "movie", "3.14",
        "10,000", "10:30", "1.", "x", "é", "\u00a0", "\x1c", "\x85", "\u2028", "\ue000", "\ue001", "\ue002", "\0", "!.",
    ]
)  # fmt: skip
TEXT = st.lists(st.one_of(PIECES, PIECES, st.just(" "), st.text(max_size=3)), max_size=16).map("".join)
SETTINGS = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tokenizer(kind: str, **fields: bool) -> Tokenizer:
    spec = TextSpec(tokenizer=kind, **{"html": False, "lowercase": False, **fields})  # type: ignore[arg-type]
    return Tokenizer(resolve(spec))


@pytest.fixture(scope="module", params=["nltk_line", "nltk"])
def pair(request: pytest.FixtureRequest) -> tuple[Tokenizer, Callable[[str], list[str]]]:
    """Our tokenizer and NLTK's function."""
    if request.param == "nltk":
        request.getfixturevalue("nltk_data")
        return tokenizer("nltk"), word_tokenize
    return tokenizer("nltk_line"), lambda text: word_tokenize(text, preserve_line=True)


@pytest.mark.thorough
@SETTINGS
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_batch_and_single_equal_nltk(pair: tuple[Tokenizer, Callable[[str], list[str]]], texts: list[str]) -> None:
    ours, theirs = pair
    expected = [theirs(unicodedata.normalize("NFC", text)) for text in texts]
    assert ours(texts).to_lists() == expected
    assert ours(texts[:1]).to_lists() == expected[:1]


@SETTINGS
@given(text=TEXT)
def test_sentences_equal_punkt(nltk_data: Path, text: str) -> None:
    if nltk_tokenizer._ODD.search(text) is None:
        assert sentences()(text) == sent_tokenize(text)


_SENTENCES: list[Sentences] = []


def sentences() -> Sentences:
    if not _SENTENCES:
        _SENTENCES.append(Sentences(PunktTokenizer("english")))
    return _SENTENCES[0]


def test_the_installed_rules_are_those_we_studied() -> None:
    assert nltk_tokenizer.rules_hash(NLTKWordTokenizer) in nltk_tokenizer._STUDIED


def test_simple_chunks_are_what_the_rules_make_of_them() -> None:
    rules = NLTKWordTokenizer().tokenize
    words = ["x", "Word", "80", "well-made", "a-b-c", "cannot", "wanna-be", "d", "more", "ain", "can", "s", "t"]
    clitics = ["", "'s", "'S", "'m", "'D", "'ll", "'RE", "'ve"]
    dressed = itertools.product(["", "(", '"'], words, clitics, ["", *".,:;!?)"], ["", '"'])
    chunks = ["".join(parts) for parts in dressed]
    simple = {chunk: nltk_tokenizer._simple(chunk) for chunk in chunks}
    assert {chunk: rules(f"m {chunk} m")[1:-1] for chunk in chunks if simple[chunk]} == {
        chunk: tokens for chunk, tokens in simple.items() if tokens
    }
    assert sum(tokens is not None for tokens in simple.values()) > 3000


def test_rules_that_were_not_studied_are_left_to_nltk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk_tokenizer, "_STUDIED", set())
    text = 'He said: "It\'s cannot."'
    assert tokenizer("nltk_line")([text]).to_lists() == [word_tokenize(text, preserve_line=True)]


def test_cleaned_lower_case_text(nltk_data: Path, imdb: list[str]) -> None:
    texts = imdb[::200]
    expected = [word_tokenize(unicodedata.normalize("NFC", clean(text)).lower()) for text in texts]
    assert tokenizer("nltk", html=True, lowercase=True)(texts).to_lists() == expected


@pytest.mark.thorough
@pytest.mark.parametrize(
    "every", [100, pytest.param(10, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.night)]
)
def test_imdb(pair: tuple[Tokenizer, Callable[[str], list[str]]], imdb: list[str], every: int) -> None:
    ours, theirs = pair
    texts = imdb[::every]
    got = ours(texts).to_lists()
    for row, text in enumerate(texts):
        assert got[row] == theirs(text), row


@pytest.mark.thorough
def test_hostile_texts(pair: tuple[Tokenizer, Callable[[str], list[str]]]) -> None:
    ours, theirs = pair
    texts = [text.encode("utf-8", "replace").decode() for text in hostile_texts(2008)[:-8]]
    assert ours(texts).to_lists() == [theirs(unicodedata.normalize("NFC", text)) for text in texts]


def test_a_word_of_a_million_letters() -> None:
    assert [len(tokens) for tokens in tokenizer("nltk_line")(["x" * 1_000_000, "a " * 1000]).to_lists()] == [1, 1000]
