# SPDX-License-Identifier: Apache-2.0
"""Positions of tokens in a text, with every tokenizer, whatever the pipeline removes or changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.text.encoder import spans_of
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer


def tokenizer(**spec: Any) -> Tokenizer:
    return Tokenizer(resolve(TextSpec(**spec)))


def placed(tokenize: Tokenizer, text: str) -> list[tuple[str, str | None]]:
    """Each token, and its characters in the text."""
    (tokens,) = tokenize([text]).to_lists()
    spans = spans_of(text, tokens, [], lambda some: tokenize(some).to_lists(), tokenize.pipeline.spec)
    return [(token, span and text[slice(*span)]) for token, span in zip(tokens, spans, strict=True)]


def test_words_stand_where_they_were_written() -> None:
    text = '<p class="x">A <b>GREAT</b> film,it&nbsp;was &quot;Good&quot;; don’t miss it!<script>if (a) b</script> a<b'
    assert placed(tokenizer(), text) == [
        *(("a", "A"), ("great", "GREAT"), ("film", "film"), ("it", "it"), ("was", "was"), ("good", "Good")),
        *(("don't", "don’t"), ("miss", "miss"), ("it", "it"), ("!", "!"), ("a", "a"), ("b", "b")),
    ]


def test_other_scripts_and_composed_letters() -> None:
    text = "房间很大！(👍🏽) #Happy_Day, 🇩🇪"
    assert placed(tokenizer(), text) == [
        *((one, one) for one in "房间很大"),
        ("!", "！"),
        *(("👍", "👍"), ("#happy", "#Happy"), ("day", "Day"), ("🇩", "🇩"), ("🇪", "🇪")),
    ]
    text = "Ａ１ﾃﾞｰﾀ㌔,ｘ é"
    assert placed(tokenizer(strip_accents=True), text) == [
        *(("a1", "Ａ１"), ("デ", "ﾃﾞ"), ("ー", "ｰ"), ("タ", "ﾀ"), ("キ", "㌔"), ("ロ", "㌔"), ("x", "ｘ"), ("e", "é")),
    ]
    text = "हिन्दी snake_case l’été e\u0301te\u0301 caf&eacute; 3.5/10 soft\u00adhyphen"
    assert placed(tokenizer(), text) == [
        *(("हिन्दी", "हिन्दी"), ("snake", "snake"), ("case", "case"), ("l'été", "l’été"), ("été", "e\u0301te\u0301")),
        *(("café", "caf&eacute;"), ("3.5", "3.5"), ("10", "10"), ("softhyphen", "soft\u00adhyphen")),
    ]


def test_a_tokenizer_that_looks_at_its_neighbours() -> None:
    text = 'Mr. Smith said: "it isn\'t good." He left (early). The end.'
    assert placed(tokenizer(tokenizer="nltk_line"), text)[:8] == [
        *(("mr.", "Mr."), ("smith", "Smith"), ("said", "said"), (":", ":")),
        *(("``", "it"), ("it", "it"), ("is", "is"), ("n't", "n't")),
    ]


PARTS = ["a", "Film", "é", "e\u0301", "'", "’", "-", ".", ",", " ", "\n", "<b>", "</b>", "<!--", "-->", "<", ">"]
PARTS += ["&amp;", "&", ";", '"', "\x00", "ß", "好", "İ", "\u00ad", "<script>", "=", "4", "#", "!", "♥", "ที่"]
WORDS = tokenizer()


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_any_text_is_placed_in_order(text: str) -> None:
    tokenize = WORDS
    (tokens,) = tokenize([text]).to_lists()
    spans = spans_of(text, tokens, [], lambda some: tokenize(some).to_lists(), tokenize.pipeline.spec)
    assert len(spans) == len(tokens)
    known = [span for span in spans if span is not None]
    assert known == sorted(known)
    assert all(0 <= start < end <= len(text) for start, end in known)
    for token, span in zip(tokens, spans, strict=True):
        if span is not None:
            assert token in tokenize([text[slice(*span)]]).to_lists()[0]
