# SPDX-License-Identifier: Apache-2.0
"""From a text to ids: unicode against a plain tokenizer, NLTK's, stop words, lemmas and data; positions of tokens
in a text, whatever the pipeline removes or changes; counting, freezing and storing a vocabulary, and reusing
that of a run, a bundle or a dataset.
"""

from __future__ import annotations

import html as standard
import re
import unicodedata
from itertools import product
from pathlib import Path

import nltk.data
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.core.errors import DataError
from preprocessing.text import characters
from preprocessing.text.encoder import spans_of
from preprocessing.text.resources import WordNet, resolve_pipeline
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import PAD, UNK, TokenCounts, Vocabulary, freeze
from tests.reference import plain
from tests.reference.hostile import TEXT

pytestmark = pytest.mark.thorough


def tokenizer(**fields: object) -> Tokenizer:
    return Tokenizer(resolve_pipeline(TextSpec(**fields)))  # type: ignore[arg-type]


# The tokenizer unicode, and a plain one.

UNICODE = {
    flags: tokenizer(html=flags[0], lowercase=flags[1], normalize=flags[2])
    for flags in product((True, False), (True, False), ("nfkc", "nfc"))
}
WORDS = UNICODE[True, True, "nfkc"]


@given(st.lists(TEXT, min_size=1, max_size=6), st.sampled_from(list(UNICODE)))
def test_batch_and_single_equal_the_reference(texts: list[str], flags: tuple[bool, bool, str]) -> None:
    fields = {"strip_html": flags[0], "lowercase": flags[1], "form": flags[2].upper()}
    expected = [plain.tokens(text, **fields) for text in texts]  # type: ignore[arg-type]
    assert UNICODE[flags](texts).to_lists() == expected
    assert [UNICODE[flags]([text]).to_lists()[0] for text in texts] == expected
    for text in texts:
        assert characters.clean(text) == plain.clean(text)
        joined = " ".join(text[start:end] for start, end in characters.visible_spans(text))
        assert characters.clean(text) == (standard.unescape(joined) if "&" in joined else joined)


SCRIPTS = re.findall(
    r"\S+",
    """
film Ταινία фильм ֆիլմ ფილმი סֶרֶט فِيلْم ܣܪܛܐ ފިލްމު ߞߏߟߋߞ ፊልም फ़िल्म ছবি ਫ਼ਿਲਮ ફિલ્મ ଚଳଚ୍ଚିତ୍ର
திரைப்படம் చిత్రం ಚಿತ್ರ ചിത്രം චිත්\u200dරපටය ภาพยนตร์ ຮູບເງົາ གློག་བརྙན ရုပ်ရှင် ខ្សែភាពយន្ត ᏗᎧᏃᏗ
ᐅᓂᒃᑲᐅᓯᖅ ᚠᛁᛚᛗ ᠺᠢᠨᠣ 电影 映画 えいが エイガ 영화 ㄉㄧㄢˋ ꆈꌠ ⵉⵙⴰⵔⵓ ᱪᱤᱛᱨᱮ ꯐꯤꯂꯝ ꦥꦶꦭꦶꦩ꧀ ᬧᬶᬮᬶᬫ᭄ ᮖᮤᮜᮙ᮪ 𐌰𐌱𐌲 𞤊𞤭𞤤𞤥 𐒀𐒁
""",
)


def test_rows_of_forty_scripts_equal_the_reference() -> None:
    texts = [*SCRIPTS, *(separator.join(SCRIPTS) for separator in ("", " ", ", ", "!"))]
    expected = [plain.tokens(text) for text in texts]
    assert WORDS(texts).to_lists() == expected
    assert [WORDS([text]).to_lists()[0] for text in texts] == expected
    assert len({unicodedata.name(word[0]).split()[0] for word in SCRIPTS}) >= 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("great<br />film", ["great", "film"]),
        ("a < b and x<3 is love", ["a", "b", "and", "x", "3", "is", "love"]),
        ("<!-- no --> yes <script>var x;</script>.<style>p{}</style>", ["yes"]),
        ("&lt;br&gt; caf&eacute; AT&amp;T &#x41;&#66;", ["br", "café", "at", "t", "ab"]),
        ('<a title="x > y">link</a> end', ["link", "end"]),
        ("broken <b", ["broken", "b"]),
        ("Don’t 'quote' rock'n'roll dogs' o''clock", ["don't", "quote", "rock'n'roll", "dogs", "o", "clock"]),
        ("NAÏVE nai\u0308ve\0x", ["naïve", "naïve", "x"]),
        ("co\u00adoperate ?\u00ad! 3\u00ad.5", ["cooperate", "?!", "3.5"]),
        ("房间很大，有ｉＰｈｏｎｅ１２！", ["房", "间", "很", "大", "有", "iphone12", "!"]),
        ("ห้องดี ﾍﾟﾝ か\u3099", ["ห้", "อ", "ง", "ดี", "ペ", "ン", "が"]),
        ("Wow!!!! 3.5 of 1,000?! end.1", ["wow", "!!", "3.5", "of", "1,000", "?!", "end", "1"]),
        ("#Happy_Day C# ##x #!", ["#happy", "day", "c", "#x", "!"]),
        ("👍🏽 👨\u200d👩\u200d👧 ♥\ufe0f&hearts; ── 한국어", ["👍", "👨", "👩", "👧", "♥", "♥", "한국어"]),
        ("", []),
    ],
)
def test_what_the_user_reads_in_the_documentation(text: str, expected: list[str]) -> None:
    assert WORDS([text]).to_lists() == [expected]


# Language data.


def test_a_missing_resource_is_named_with_where_we_looked_and_what_fetches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(DataError, match="tokenizers/punkt_tab/english") as error:
        resolve_pipeline(TextSpec(tokenizer="nltk"))
    assert str(tmp_path) in str(error.value)
    assert "python -m nltk.downloader punkt_tab" in str(error.value)


def test_wordnet_lemmas_equal_nltks(nltk_data: Path, imdb: list[str]) -> None:
    from nltk.stem import WordNetLemmatizer

    edge_cases = ["us", "men", "aardwolves", "abaci", "'s", "", "s", "less", "was"]
    theirs, ours = WordNetLemmatizer(), WordNet()
    for word in [*tokenizer()(imdb[:20]).types.to_pylist(), *edge_cases]:
        assert ours(word) == theirs.lemmatize(word, "n")
    assert (ours("wolves"), ours("running")) == ("wolf", "running")


def test_stop_words_of_a_file_are_read_as_texts_are_and_negations_stay(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("The\n not \nＯＦ\ndon’t\n\n", encoding="utf-8-sig")
    assert resolve_pipeline(TextSpec(stop_words=str(path))).stop_words == ("of", "the")
    assert tokenizer(stop_words=str(path))(["The end OF it, don't"]).to_lists() == [["end", "it", "don't"]]
    without_negations = resolve_pipeline(TextSpec(stop_words=str(path), keep_negations=False))
    assert without_negations.stop_words == ("don't", "not", "of", "the")


def counts(**table: int) -> TokenCounts:
    return TokenCounts(pa.array(list(table), pa.large_string()), np.array(list(table.values()), np.int64))


def test_order_is_count_then_bytes_and_reserved_rows_come_first() -> None:
    vocabulary = freeze(counts(b=2, a=2, é=2, Z=2, c=9, rare=1), min_count=2)
    assert vocabulary.tokens.to_pylist() == ["<pad>", "<unk>", "c", "Z", "a", "b", "é"]
    assert vocabulary.counts.tolist() == [0, 1, 9, 2, 2, 2, 2]
    assert (PAD, UNK) == (0, 1)
    reserved = freeze(TokenCounts(pa.array(["<pad>", "<unk>", "x"], pa.large_string()), np.array([5, 4, 3])))
    assert (reserved.tokens.to_pylist(), reserved.counts.tolist()) == (["<pad>", "<unk>", "x"], [0, 9, 3])
    assert reserved.lookup(pa.array(["<pad>", "<unk>", "x", "y"])).tolist() == [1, 1, 2, 1]


def test_it_is_read_as_it_was_written_or_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.arrow"
    vocabulary = freeze(counts(**{f"token{number}": number + 1 for number in range(50)}, é=99))
    vocabulary.write(path)
    read_back = Vocabulary.read(path)
    assert (read_back.hash, read_back.tokens, read_back.counts.tolist()) == (
        vocabulary.hash,
        vocabulary.tokens,
        vocabulary.counts.tolist(),
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"token42", b"Token42", 1))
    with pytest.raises(DataError, match=r"vocabulary\.arrow is damaged"):
        Vocabulary.read(path)


DEFAULT = tokenizer()

PLACED = {
    '<p class="x">A <b>GREAT</b> film,it&nbsp;was &quot;Good&quot;; don’t!<script>if (a) b</script> a<b': (
        "a:A great:GREAT film:film it:it was:was good:Good don't:don’t !:! a:a b:b"
    ),
    "房间很大！(👍🏽) #Happy_Day, 🇩🇪": "房:房 间:间 很:很 大:大 !:！ 👍:👍 #happy:#Happy day:Day 🇩:🇩 🇪:🇪",
    "हिन्दी snake_case l’été e\u0301te\u0301 caf&eacute; soft\u00adhyphen": (
        "हिन्दी:हिन्दी snake:snake case:case l'été:l’été été:e\u0301te\u0301 café:caf&eacute softhyphen:soft\u00adhyphen"
    ),
}
"""Text -> its tokens, each with its characters in the text."""


@pytest.mark.parametrize("text", PLACED)
def test_words_stand_where_they_were_written(text: str) -> None:
    (tokens,) = DEFAULT([text]).to_lists()
    spans = spans_of(text, tokens, DEFAULT)
    places = [f"{token}:{span and text[slice(*span)]}" for token, span in zip(tokens, spans, strict=True)]
    assert " ".join(places) == PLACED[text]


SIGNS = ["a", "Film", "é", "e\u0301", "'", "’", "-", ".", ",", " ", "\n", "<b>", "</b>", "<!--", "-->", "<", ">"]
SIGNS += ["&amp;", "&", ";", '"', "\x00", "ß", "好", "İ", "\u00ad", "<script>", "=", "4", "#", "!", "♥", "ที่"]
