# SPDX-License-Identifier: Apache-2.0
"""text→ids is total and linear: any text gives ids, never an exception, and twice the text takes twice the time."""

from __future__ import annotations

import time
from collections.abc import Callable
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
    *(pytest.param(name, SHORT, id=f"{name}-short") for name in ("word", "nltk_line", "nltk")),
    *(pytest.param(name, LONGER, id=f"{name}-long", marks=pytest.mark.slow) for name in ("word", "nltk_line", "nltk")),
    *(pytest.param(name, LONG, id=f"{name}-night", marks=pytest.mark.night) for name in ("word", "nltk_line", "nltk")),
]
FAMILIES: dict[str, Callable[[int], str]] = {
    "one letter": lambda size: "a" * size,
    "one sign": lambda size: "." * size,
    "one blank": lambda size: " " * size,
    "zeros": lambda size: "\0" * size,
    "surrogates": lambda size: "\ud800" * size,
    "accents on one letter": lambda size: "e" + "\u0301" * size,
    "accents out of order": lambda size: "e" + "\u0316\u0301" * (size // 2),
    "accents one by one": lambda size: "e\u0301" * (size // 2),
    "capitals that grow": lambda size: "İ" * size,
    "apostrophes": lambda size: "a'" * (size // 2),
    "apostrophes alone": lambda size: "'" * size,
    "quotes": lambda size: '"' * size,
    "quotes after blanks": lambda size: ' "' * (size // 2),
    "backticks": lambda size: "`" * size,
    "hyphens": lambda size: "a-" * (size // 2),
    "points": lambda size: "a." * (size // 2),
    "numbers with points": lambda size: "1." * (size // 2),
    "numbers with commas": lambda size: "1," * (size // 2),
    "ellipses": lambda size: "... " * (size // 4),
    "abbreviations": lambda size: "Mr. A. " * (size // 7),
    "question marks": lambda size: "?! " * (size // 3),
    "contractions": lambda size: "can't've " * (size // 9),
    "tags inside each other": lambda size: "<b>" * (size // 7) + "</b>" * (size // 7),
    "tags that never close": lambda size: "<b " * (size // 3),
    "opening signs": lambda size: "<" * size,
    "closing tags without an end": lambda size: "</a" * (size // 3),
    "comments that never close": lambda size: "<!--" * (size // 4),
    "comments that nearly close": lambda size: "<!--" + "--" * (size // 2),
    "scripts that never close": lambda size: "<script>" * (size // 8),
    "scripts that nearly close": lambda size: "<script>" + "</script" * (size // 8),
    "styles and scripts": lambda size: "<style><script></style " * (size // 23),
    "attributes": lambda size: "<a " + "b=c " * (size // 4) + ">",
    "open attributes": lambda size: "<a b='" * (size // 6),
    "open attributes of both kinds": lambda size: "<a b='<a c=\"" * (size // 12),
    "quoted ends": lambda size: '<a b=">" ' * (size // 9),
    "equals signs": lambda size: "<a " + "= " * (size // 2),
    "declarations": lambda size: "<!" * (size // 2),
    "ampersands": lambda size: "&" * size,
    "entities without an end": lambda size: "&amp" * (size // 4),
    "an entity of many letters": lambda size: "&" + "a" * size,
    "an entity of many digits": lambda size: "&#" + "9" * size,
    "entities of digits": lambda size: "&#x41;" * (size // 6),
    "letters of many bytes": lambda size: "\U0001d518" * size,
    "letters without blanks": lambda size: "語" * size,
    "joined people": lambda size: "\U0001f468\u200d" * (size // 2),
    "words all different": lambda size: " ".join(f"w{number}" for number in range(size // 7)),
    "line ends": lambda size: "\r\n" * (size // 2),
    "marks of order": lambda size: "\ufeff\u202e" * (size // 2),
}
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


def is_linear(name: str, family: Callable[[int], str], most: int) -> tuple[bool, str]:
    """Whether twice the text takes at most ``MOST_RATIO`` times as long, in one of three trials."""
    said = ""
    for size in (most, most, 4 * most):
        half, whole = seconds(name, family(size // 2)), seconds(name, family(size))
        said = f"{len(family(size)):,} characters: {half:.3f} s, then {whole:.3f} s"
        if whole < LEAST_S or whole <= MOST_RATIO * half:
            return True, said
    return False, said


@pytest.mark.parametrize(("name", "size"), SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_text_takes_twice_the_time(name: str, family: str, size: int, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")
    assert encoded(name, [FAMILIES[family](64)])  # what is made once is made
    linear, said = is_linear(name, FAMILIES[family], size)
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
