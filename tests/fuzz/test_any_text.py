# SPDX-License-Identifier: Apache-2.0
"""text→ids is total and linear: any text gives ids, never an exception, and twice the text takes twice the time."""

from __future__ import annotations

import time
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import strategies as st

from preprocessing.text.encoder import Encoder
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import UNK, count, freeze
from tests.fuzz.conftest import Fuzz
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.thorough

SPECS = {
    "word": TextSpec(),
    "word as written": TextSpec(html=False, lowercase=False, truncate="both", max_tokens=7),
    "nltk_line": TextSpec(tokenizer="nltk_line"),
    "nltk": TextSpec(tokenizer="nltk", truncate="tail"),
}
KNOWN = ["a fine film", "it's <b>not</b> bad", "don't", "1,000.50 &amp; more ...", "日本 語", "e\u0301té"]
PIECES = (
    *("<", ">", "</", "<!--", "-->", "<![CDATA[", "]]>", "<script", "</script>", "<style>", "<?", "<!", "&", "&#", ";"),
    *("&#x110000;", "&#55296;", "&#0;", "&amp", "&lt;b&gt;", "&CounterClockwiseContourIntegral;", "&" + "a" * 40),
    *('"', "'", "''", "``", "`", "=", "='", '="', "<a b='", '<a b="', "n't", "'s", "can't", "cannot", "...", "--", "$"),
    *("\0", "\x1b[2J", "\ud800", "\udfff", "\ufeff", "\u2028", "\u202e", "\u00ad", "\u200d", "\u0301", "\U0010ffff"),
    *(
        "İ",
        "ß",
        "ﬃ",
        "ǆ",
        "Σ",
        "各",
        "😀",
        "\U0001f468\u200d\U0001f469",
        "\r",
        "\n",
        "\t",
        " ",
        "\u3000",
        "a",
        "Z",
        "9",
        ".",
    ),
)
SHORT, LONGER, LONG = 1 << 14, 1 << 16, 1 << 18
"""Characters of the longer text of a pair; half of it is the shorter one."""
SIZES = [
    pytest.param(name, size, id=f"{name}-{size}", marks=marks)
    for size, marks in ((SHORT, ()), (LONGER, pytest.mark.slow), (LONG, pytest.mark.night))
    for name in ("word", "nltk_line", "nltk")
]
FAMILIES = {
    name: (head, body)
    for name, head, body in (
        *(
            (repr(sign), "", sign)
            for sign in ("a", ".", " ", "\0", "\ud800", "İ", "'", '"', "`", "<", "&", "語", "\U0001d518")
        ),
        ("accents on one letter", "e", "\u0301"),
        ("accents out of order", "e", "\u0316\u0301"),
        ("accents one by one", "", "e\u0301"),
        ("apostrophes", "", "a'"),
        ("quotes after blanks", "", ' "'),
        ("hyphens", "", "a-"),
        ("points", "", "a."),
        ("numbers", "", "1.1,"),
        ("ellipses", "", "... "),
        ("abbreviations", "", "Mr. A. "),
        ("question marks", "", "?! "),
        ("contractions", "", "can't've "),
        ("tags inside each other", "", "<b>"),
        ("tags that never close", "", "<b "),
        ("closing tags without an end", "", "</a"),
        ("comments that never close", "", "<!--"),
        ("comments that nearly close", "<!--", "--"),
        ("scripts that never close", "", "<script>"),
        ("scripts that nearly close", "<script>", "</script"),
        ("styles and scripts", "", "<style><script></style "),
        ("attributes", "<a ", "b=c "),
        ("open attributes of both kinds", "", "<a b='<a c=\""),
        ("quoted ends", "", '<a b=">" '),
        ("equals signs", "<a ", "= "),
        ("declarations", "", "<!"),
        ("entities without an end", "", "&amp"),
        ("an entity of many letters", "&", "a"),
        ("an entity of many digits", "&#", "9"),
        ("entities of digits", "", "&#x41;"),
        ("joined people", "", "\U0001f468\u200d"),
        ("line ends", "", "\r\n"),
        ("marks of order", "", "\ufeff\u202e"),
    )
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
    """The ids of texts."""
    return [ids.tolist() for ids in encoder(name).each(texts)]


def is_whole(name: str, texts: list[str], found: list[list[int]]) -> bool:
    """Whether each text has ids, of the vocabulary, no padding, no more than allowed; and the same ids when alone."""
    spec, size = SPECS[name], len(encoder(name).vocabulary)
    fits = all(1 <= len(ids) <= spec.max_tokens and all(UNK <= one < size for one in ids) for ids in found)
    return len(found) == len(texts) and fits and found[-1] == encoded(name, texts[-1:])[0]


TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=60),
    st.lists(st.sampled_from((*PIECES, *KNOWN)), max_size=12).map(" ".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 3000)).map(lambda drawn: drawn[0] * drawn[1]),
)


@pytest.mark.parametrize("name", SPECS)
def test_any_text_gives_ids(name: str, fuzz: Fuzz, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")

    def check(texts: list[str]) -> str:
        return outcome(lambda: encoded(name, texts), lambda found: is_whole(name, texts, found))

    found = fuzz(st.lists(TEXTS, min_size=1, max_size=4), check)
    assert set(found) == {"same"}


def seconds(name: str, text: str) -> float:
    """CPU time of this thread, the better of two."""
    taken = []
    for _ in range(2):
        began = time.thread_time()
        encoded(name, [text])
        taken.append(time.thread_time() - began)
    return min(taken)


def made(family: str, size: int) -> str:
    """A text of so many characters."""
    head, body = FAMILIES[family]
    return head + body * (size // len(body))


def is_linear(name: str, family: str, most: int) -> tuple[bool, str]:
    """Whether twice the text takes at most ``MOST_RATIO`` times as long, in one of three trials."""
    said = ""
    for size in (most, most, 4 * most):
        half, whole = seconds(name, made(family, size // 2)), seconds(name, made(family, size))
        said = f"{size:,} characters: {half:.3f} s, then {whole:.3f} s"
        if whole < LEAST_S or whole <= MOST_RATIO * half:
            return True, said
    return False, said


@pytest.mark.parametrize(("name", "size"), SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_text_takes_twice_the_time(name: str, family: str, size: int, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")
    assert encoded(name, [made(family, 64)])  # what is made once is made
    linear, said = is_linear(name, family, size)
    assert linear, said


def test_a_megabyte_of_anything() -> None:
    for text in ("a" * (1 << 20), "\ud800" * (1 << 18), "<b>" * 100_000 + "</b>" * 100_000, "&amp;" * 200_000):
        found = outcome(partial(encoded, "word", [text]), lambda ids: len(ids) == 1 and len(ids[0]) >= 1)
        assert found == "same"


def test_texts_that_nothing_is_left_of() -> None:
    for text in ("", " ", "\0", "\ud800", "<b>", "<!-- a -->", "<script>a</script>", "\u200d", "&nbsp;"):
        ids = encoded("word", [text])[0]
        assert len(ids) >= 1
        assert np.all(np.array(ids) < len(encoder("word").vocabulary))
    assert encoded("word", [""]) == [[UNK]]
