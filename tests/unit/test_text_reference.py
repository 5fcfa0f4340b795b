# SPDX-License-Identifier: Apache-2.0
"""The fast tokenizer, in batches and alone, says what the plain reference says."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.text import html
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.reference import plain
from tests.reference.hostile import TEXT, hostile_texts

pytestmark = pytest.mark.thorough


def pipeline(**fields: object) -> TextPipeline:
    spec = TextSpec(**fields)  # type: ignore[arg-type]
    return TextPipeline(spec, (), {})


TOKENIZERS = {
    (strip, lower): Tokenizer(pipeline(html=strip, lowercase=lower))
    for strip in (True, False)
    for lower in (True, False)
}


@pytest.mark.thorough
@settings(max_examples=400, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_batch_and_single_equal_the_reference(texts: list[str], strip: bool, lower: bool) -> None:
    expected = [plain.tokens(text, strip_html=strip, lowercase=lower) for text in texts]
    tokenizer = TOKENIZERS[strip, lower]
    assert tokenizer(texts).to_lists() == expected
    assert [tokenizer([text]).to_lists()[0] for text in texts] == expected


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_clean_equals_the_reference(text: str) -> None:
    assert html.clean(text) == plain.clean(text)


def test_every_ascii_letter_with_every_mark_keeps_its_meaning_through_the_byte_table() -> None:
    marks = [chr(point) for point in range(0x300, 0x370)] + ["\u0338\u0301", "\u0323\u0307", "\u1ab0", "\u20d0"]
    letters = [chr(point) for point in (*range(65, 91), *range(97, 123))]
    texts = [f"x{letter}{mark}y {letter}{mark}" for letter in letters for mark in marks]
    assert TOKENIZERS[True, True](texts).to_lists() == [plain.tokens(text) for text in texts]


def test_every_character_alone_and_inside_a_word() -> None:
    characters = [chr(point) for point in range(0x3000)] + [chr(point) for point in range(0x3000, 0x11_0000, 97)]
    texts = [f"a{char}b {char}'{char} {char}" for char in characters]
    assert TOKENIZERS[False, True](texts).to_lists() == [plain.tokens(text, strip_html=False) for text in texts]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("great<br />film", ["great", "film"]),
        ("a < b and x<3 is love", ["a", "b", "and", "x", "3", "is", "love"]),
        ("<!-- no --> yes <script>var x;</script>!<style>p{}</style>", ["yes"]),
        ("&lt;br&gt; caf&eacute; AT&amp;T &#x41;&#66;", ["br", "café", "at", "t", "ab"]),
        ('<a title="x > y">link</a> end', ["link", "end"]),
        ("broken <b", ["broken", "b"]),
        ("Don’t 'quote' rock'n'roll dogs' o''clock", ["don't", "quote", "rock'n'roll", "dogs", "o", "clock"]),
        ("NAÏVE nai\u0308ve\0x", ["naïve", "naïve", "x"]),
        ("co\u00adoperate", ["cooperate"]),
        ("", []),
    ],
)
def test_what_the_user_reads_in_the_documentation(text: str, expected: list[str]) -> None:
    assert TOKENIZERS[True, True]([text]).to_lists() == [expected]


@pytest.mark.thorough
@pytest.mark.parametrize("number", [2008, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_texts_batch_single_and_reference(number: int) -> None:
    texts = hostile_texts(number)
    tokenizer = TOKENIZERS[True, True]
    batch = tokenizer(texts).to_lists()
    assert [tokenizer([text]).to_lists()[0] for text in texts] == batch
    assert [plain.tokens(text) for text in texts[:-8]] == batch[:-8]
    assert [len(tokens) for tokens in batch[-8:]] == [1, 1, 1, 0, 0, 0, 0, 0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "every", [100, pytest.param(10, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.night)]
)
def test_imdb_in_the_notebooks_configuration(imdb: list[str], nltk_data: object, every: int) -> None:
    from nltk.stem import WordNetLemmatizer

    resolved = resolve(TextSpec(stop_words="nltk", lemmatizer="wordnet"))
    texts = imdb[::every]
    memory: dict[str, str] = {}
    lemmatize = WordNetLemmatizer().lemmatize

    def lemma(word: str) -> str:
        if word not in memory:
            memory[word] = lemmatize(word)
        return memory[word]

    got = Tokenizer(resolved)(pa.array(texts)).to_lists()
    for row, text in enumerate(texts):
        assert got[row] == plain.tokens(text, stop_words=set(resolved.stop_words), lemma=lemma), row


def test_nfc_of_the_reference_is_what_unicode_says() -> None:
    assert plain.words("E\u0301", True) == [unicodedata.normalize("NFC", "é")]
