# SPDX-License-Identifier: Apache-2.0
"""text→ids is total and linear: any text gives ids, never an exception, and twice the text takes twice the time."""

from __future__ import annotations

import time
from functools import cache, partial

import pytest
from hypothesis import strategies as st

from preprocessing.text.encoder import Encoder
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import UNK, freeze
from tests.datasets import count
from tests.fuzz.conftest import Fuzz
from tests.fuzz.outcome import outcome
from tests.reference.hostile import PIECES

pytestmark = pytest.mark.thorough

SPECS = {
    "unicode": TextSpec(),
    "unicode as written": TextSpec(html=False, lowercase=False, truncate="both", max_tokens=7),
    "nltk_line": TextSpec(tokenizer="nltk_line"),
    "nltk": TextSpec(tokenizer="nltk", truncate="tail"),
}
KNOWN = ["a fine film", "it's <b>not</b> bad", "don't", "1,000.50 &amp; more ...", "日本 語", "e\u0301té"]
FAMILIES = {
    "letters": ("", "a"),
    "accents on one letter": ("e", "\u0301"),
    "contractions": ("", "can't've "),
    "tags inside each other": ("", "<b>"),
    "comments that nearly close": ("<!--", "--"),
    "scripts that nearly close": ("<script>", "</script"),
    "open attributes of both kinds": ("", "<a b='<a c=\""),
    "entities without an end": ("", "&amp"),
    "joined people": ("", "\U0001f468\u200d"),
}
"""What a text may be made of: its beginning, and what is repeated behind it."""
MOST_RATIO = 2.5
LEAST_S = 0.01
"""What is faster than that is fast enough, and no clock tells its halves apart."""


@cache
def encoder(name: str) -> Encoder:
    """An encoder with a small vocabulary."""
    pipeline = resolve(SPECS[name])
    return Encoder(pipeline, freeze(count(Tokenizer(pipeline)(KNOWN))))


def encoded(name: str, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in encoder(name).each(texts)]


HOSTILE = ("a" * (1 << 18), "<b>" * 50_000 + "</b>" * 50_000, "", "\ud800", "<!-- a -->", "<script>a</script>")


@pytest.mark.parametrize("name", SPECS)
def test_any_text_gives_ids(name: str, fuzz: Fuzz, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")
    spec, size = SPECS[name], len(encoder(name).vocabulary)

    def check(text: str) -> str:
        return outcome(
            partial(encoded, name, [text]),
            lambda found: 1 <= len(found[0]) <= spec.max_tokens and all(UNK <= one < size for one in found[0]),
        )

    texts = st.one_of(
        st.lists(st.one_of(PIECES, st.sampled_from(KNOWN)), max_size=40).map("".join),
        st.builds(lambda piece, times: piece * times, PIECES, st.integers(1, 3000)),
        st.sampled_from(HOSTILE),
    )
    assert set(fuzz(texts, check)) == {"same"}


def seconds(name: str, text: str) -> float:
    """CPU time of this thread, the better of two."""
    taken = []
    for _ in range(2):
        began = time.thread_time()
        encoded(name, [text])
        taken.append(time.thread_time() - began)
    return min(taken)


def is_linear(name: str, family: str, most: int) -> bool:
    """Whether twice the text takes at most ``MOST_RATIO`` times as long, in one of three trials."""
    head, body = FAMILIES[family]
    for size in (most, most, 4 * most):
        half, whole = (seconds(name, head + body * (long // len(body))) for long in (size // 2, size))
        if whole < LEAST_S or whole <= MOST_RATIO * half:
            return True
    return False


@pytest.mark.parametrize(
    "size",
    [1 << 14, pytest.param(1 << 16, marks=pytest.mark.slow), pytest.param(1 << 18, marks=pytest.mark.night)],
)
@pytest.mark.parametrize("name", ["unicode", "nltk_line", pytest.param("nltk", marks=pytest.mark.slow)])
def test_twice_the_text_takes_twice_the_time(name: str, size: int, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")
    assert encoded(name, KNOWN)  # what is made once is made
    assert [family for family in FAMILIES if not is_linear(name, family, size)] == []
