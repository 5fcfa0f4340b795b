# SPDX-License-Identifier: Apache-2.0
"""From a text to words: the word tokenizer against a plain one, NLTK's against NLTK, stop words, lemmas and data."""

from __future__ import annotations

import html as standard
import itertools
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import nltk.data
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nltk.tokenize import sent_tokenize, word_tokenize
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktTokenizer

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.text import html, nltk_tokenizer, resources
from preprocessing.text import tokenizer as tokenizer_module
from preprocessing.text.nltk_tokenizer import Sentences
from preprocessing.text.resources import WordNet, resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.unicode import nfc
from tests.reference import plain
from tests.reference.hostile import TEXT, hostile_texts

pytestmark = pytest.mark.thorough


def tokenizer(**fields: object) -> Tokenizer:
    return Tokenizer(resolve(TextSpec(**fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "spacy"}, "tokenizer: 'spacy' is out of range: expected one of word, nltk, nltk_line"),
        ({"truncate": "middle"}, "truncate: 'middle' is out of range: expected one of head, tail, both"),
        ({"max_tokens": 0}, "max_tokens: 0 is out of range: expected at least 1"),
        ({"html": "yes"}, "html: 'yes' is out of range: expected a value of type bool"),
        ({"stop_words": ""}, "stop_words: '' is out of range"),
        ({"lemmatizer": "wordnet", "language": "de"}, "language is 'de'; use simplemma"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TextSpec(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", None], "text 1 is None"),
        (pa.chunked_array([["fine"], ["fine", None]]), "text 2 is null"),
        (pa.array([1, 2]), "of type int64, not string"),
    ],
)
def test_a_text_that_is_none_is_named_with_its_index(texts: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tokenizer()(texts)  # type: ignore[arg-type]


def test_every_form_of_texts_gives_the_same_tokens() -> None:
    texts = ["A film", "", "naïve <b>film</b>"]
    forms = [
        texts,
        tuple(texts),
        pa.array(texts, pa.string()),
        pa.array(["x", *texts, "y"], pa.large_string())[1:4],
        pa.chunked_array([texts[:1], [], texts[1:]]),
    ]
    for form in forms:
        result = tokenizer()(form)
        assert result.to_lists() == [["a", "film"], [], ["naïve", "film"]]
        assert (result.codes.dtype, result.offsets.dtype, result.types.type) == (np.int32, np.int64, pa.large_string())
        assert result.types.to_pylist() == ["a", "film", "naïve"]
    assert tokenizer()([]).to_lists() == []
    bad = [None, pa.py_buffer(np.array([0, 5], np.int32)), pa.py_buffer(b"ab\xffcd")]
    assert tokenizer()(pa.Array.from_buffers(pa.string(), 1, bad)).to_lists() == [["ab", "cd"]], "not UTF-8"


def test_pieces_rounds_and_a_full_cache_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{number % 7} it’s naïve{number % 3} <i>{number}</i>" for number in range(50)]
    expected = tokenizer()(texts)
    for name, value in {"PIECE_TEXTS": 3, "ROUND_TEXTS": 5, "CACHE_SURFACES": 4, "CACHE_BYTES": 1000}.items():
        monkeypatch.setattr(tokenizer_module, name, value)
    small = tokenizer()
    for _ in range(2):
        result = small(texts)
        assert result.to_lists() == expected.to_lists()
        assert result.types.to_pylist() == expected.types.to_pylist()
    for number in range(5):
        assert small([f"{number}" * 900 + " short"]).to_lists() == [[f"{number}" * 900, "short"]]
        assert len(small._tokens) <= 60


# The word tokenizer, and a plain one.

WORDS = {(strip, lower): tokenizer(html=strip, lowercase=lower) for strip in (True, False) for lower in (True, False)}


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_batch_and_single_equal_the_reference(texts: list[str], strip: bool, lower: bool) -> None:
    expected = [plain.tokens(text, strip_html=strip, lowercase=lower) for text in texts]
    assert WORDS[strip, lower](texts).to_lists() == expected
    assert [WORDS[strip, lower]([text]).to_lists()[0] for text in texts] == expected
    for text in texts:
        assert html.clean(text) == plain.clean(text)
        joined = " ".join(text[start:end] for start, end in html.visible(text))
        assert html.clean(text) == (standard.unescape(joined) if "&" in joined else joined)


def test_every_character_and_every_mark_on_a_letter() -> None:
    """Each keeps its meaning through the byte table, alone and inside a word."""
    characters = [chr(point) for point in range(0x2000)] + [chr(point) for point in range(0x2000, 0x11_0000, 197)]
    texts = [f"a{char}b {char}'{char} {char}" for char in characters]
    assert WORDS[False, True](texts).to_lists() == [plain.tokens(text, strip_html=False) for text in texts]
    marks = [chr(point) for point in range(0x300, 0x370)] + ["\u0338\u0301", "\u0323\u0307", "\u1ab0", "\u20d0"]
    texts = [f"x{letter}{mark}y {letter}{mark}" for letter in "aefizAEFIZ" for mark in marks]
    assert WORDS[True, True](texts).to_lists() == [plain.tokens(text) for text in texts]


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
    assert WORDS[True, True]([text]).to_lists() == [expected]


@pytest.mark.parametrize("number", [508, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_texts_batch_single_and_reference(number: int) -> None:
    texts = hostile_texts(number)
    batch = WORDS[True, True](texts).to_lists()
    assert [WORDS[True, True]([text]).to_lists()[0] for text in texts] == batch
    assert [plain.tokens(text) for text in texts[:-8]] == batch[:-8]
    assert [len(tokens) for tokens in batch[-8:]] == [1, 1, 1, 0, 0, 0, 0, 0]


EVERY = [250, pytest.param(10, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.night)]


@pytest.mark.parametrize("every", EVERY)
def test_imdb_in_the_notebooks_configuration(imdb: list[str], nltk_data: object, every: int) -> None:
    from nltk.stem import WordNetLemmatizer

    resolved = resolve(TextSpec(stop_words="nltk", lemmatizer="wordnet"))
    texts, removed = imdb[::every], set(resolved.stop_words)
    memory: dict[str, str] = {}
    lemmatize = WordNetLemmatizer().lemmatize

    def lemma(word: str) -> str:
        return memory.setdefault(word, memory.get(word) or lemmatize(word))

    got = Tokenizer(resolved)(pa.array(texts)).to_lists()
    for row, text in enumerate(texts):
        assert got[row] == plain.tokens(text, stop_words=removed, lemma=lemma), row


def test_nfc_of_any_number_of_accents_is_unicodes() -> None:
    marks = [chr(point) for point in range(0x300, 0x1E00) if unicodedata.combining(chr(point))]
    marks += ["\u0f73", "\u0344", "\u3099", "\u302e", "\U0001d165"]
    random = np.random.default_rng(1)
    for size in (1, 5, 63, 64, 65, 300):
        for start in ("", "e", "\u1e69", "\u200d", "\U0001f600"):
            text = start + "".join(random.choice(marks, size)) + "x" + "".join(random.choice(marks, 70))
            assert nfc(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("digits", ["65", "0", "1114111", "1114112", "99999999999", "55296", "128"])
def test_numbers_of_entities_are_those_of_python(digits: str) -> None:
    for zeros, end in itertools.product((0, 1, 7, 30), ("", ";", "x", "&#66;")):
        text = f"a &#{zeros * '0'}{digits}{end} b"
        assert html.clean(text) == standard.unescape(text)
    assert html.clean(f"a&#{9000 * '9'};b&#{9000 * '0'}65;") == "a\ufffdbA"


# NLTK's tokenizers, and NLTK.

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
ENGLISH = st.lists(st.one_of(PIECES, PIECES, st.just(" "), st.text(max_size=3)), max_size=16).map("".join)
SETTINGS = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
AS_WRITTEN = {"html": False, "lowercase": False}


@pytest.fixture(scope="module", params=["nltk_line", "nltk"])
def pair(request: pytest.FixtureRequest) -> tuple[Tokenizer, Callable[[str], list[str]]]:
    """Our tokenizer and NLTK's function."""
    if request.param == "nltk":
        request.getfixturevalue("nltk_data")
        return tokenizer(tokenizer="nltk", **AS_WRITTEN), word_tokenize
    return tokenizer(tokenizer="nltk_line", **AS_WRITTEN), lambda text: word_tokenize(text, preserve_line=True)


@SETTINGS
@given(texts=st.lists(ENGLISH, min_size=1, max_size=4))
def test_batch_and_single_equal_nltk(pair: tuple[Tokenizer, Callable[[str], list[str]]], texts: list[str]) -> None:
    ours, theirs = pair
    expected = [theirs(unicodedata.normalize("NFC", text)) for text in texts]
    assert ours(texts).to_lists() == expected
    assert ours(texts[:1]).to_lists() == expected[:1]


@SETTINGS
@given(text=ENGLISH)
def test_sentences_equal_punkt(nltk_data: Path, text: str) -> None:
    if nltk_tokenizer._ODD.search(text) is None:
        if not SENTENCES:
            SENTENCES.append(Sentences(PunktTokenizer("english")))
        assert SENTENCES[0](text) == sent_tokenize(text)


SENTENCES: list[Sentences] = []


def test_simple_chunks_are_what_the_studied_rules_make_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nltk_tokenizer.rules_hash(NLTKWordTokenizer) in nltk_tokenizer._STUDIED
    rules = NLTKWordTokenizer().tokenize
    words = ["x", "Word", "80", "well-made", "a-b-c", "cannot", "wanna-be", "d", "more", "ain", "can", "s", "t"]
    clitics = ["", "'s", "'S", "'m", "'D", "'ll", "'RE", "'ve"]
    dressed = itertools.product(["", "(", '"'], words, clitics, ["", *".,:;!?)"], ["", '"'])
    simple = {chunk: nltk_tokenizer._simple(chunk) for chunk in map("".join, dressed)}
    assert {chunk: rules(f"m {chunk} m")[1:-1] for chunk in simple if simple[chunk]} == {
        chunk: tokens for chunk, tokens in simple.items() if tokens
    }
    assert sum(tokens is not None for tokens in simple.values()) > 3000
    monkeypatch.setattr(nltk_tokenizer, "_STUDIED", set())
    text = 'He said: "It\'s cannot."'
    other = tokenizer(tokenizer="nltk_line", **AS_WRITTEN)
    assert other([text]).to_lists() == [word_tokenize(text, preserve_line=True)], "other rules are left to NLTK"


@pytest.mark.parametrize("every", EVERY)
def test_imdb_and_hostile_texts_as_nltk_has_them(
    pair: tuple[Tokenizer, Callable[[str], list[str]]], imdb: list[str], every: int
) -> None:
    ours, theirs = pair
    texts = [*imdb[::every], *(text.encode("utf-8", "replace").decode() for text in hostile_texts(508)[:-8])]
    for text, got in zip(texts, ours(texts).to_lists(), strict=True):
        assert got == theirs(unicodedata.normalize("NFC", text))
    assert [len(tokens) for tokens in ours(["x" * 1_000_000, "a " * 1000]).to_lists()] == [1, 1000]


# Language data.


def test_negations_are_kept_unless_asked(nltk_data: Path) -> None:
    text = "I do not like it, nor don't the others; never without her"
    assert tokenizer(stop_words="nltk")([text]).to_lists() == [
        ["not", "like", "nor", "don't", "others", "never", "without"]
    ]
    assert tokenizer(stop_words="nltk", keep_negations=False)([text]).to_lists() == [
        ["like", "others", "never", "without"]
    ]
    kept = resolve(TextSpec(stop_words="stop-words")).stop_words
    everything = resolve(TextSpec(stop_words="stop-words", keep_negations=False)).stop_words
    assert {"not", "no", "cannot", "don't", "won't"} <= set(everything) - set(kept)
    with pytest.raises(ConfigError, match="negations of language 'sv' are not known"):
        resolve(TextSpec(stop_words="stop-words", language="sv"))
    assert "och" in resources.stop_words("stop-words", "sv", True, False)


def test_a_stop_word_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeffFilm\r\nit’s\n\nNOT\n", encoding="utf-8")
    assert resolve(TextSpec(stop_words=str(path))).stop_words == ("film", "it's")
    assert resolve(TextSpec(stop_words=str(path), lowercase=False)).stop_words == ("Film", "it's")
    assert tokenizer(stop_words=str(path))(["It's not a FILM"]).to_lists() == [["not", "a"]]
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"words\.txt is not UTF-8 \(byte 3\)"):
        resolve(TextSpec(stop_words=str(path)))
    with pytest.raises(DataError, match=r"missing\.txt cannot be read"):
        resolve(TextSpec(stop_words=str(tmp_path / "missing.txt")))


@pytest.mark.parametrize(
    ("fields", "resource"),
    [
        ({"lemmatizer": "wordnet"}, "corpora/wordnet"),
        ({"stop_words": "nltk"}, "corpora/stopwords"),
        ({"tokenizer": "nltk"}, "tokenizers/punkt_tab/english"),
    ],
)
def test_a_missing_resource_is_named_with_where_we_looked_and_what_fetches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fields: dict[str, object], resource: str
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(DataError) as error:
        resolve(TextSpec(**fields))  # type: ignore[arg-type]
    for said in (resource, str(tmp_path), "python -m preprocessing fetch-nltk"):
        assert said in str(error.value)


@pytest.mark.slow
def test_zipped_resources_are_the_same_resources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nltk_data: Path
) -> None:
    spec = TextSpec(tokenizer="nltk", stop_words="nltk", lemmatizer="wordnet")
    unpacked = resolve(spec)
    for folder in ("corpora/wordnet", "corpora/stopwords", "tokenizers/punkt_tab"):
        source = nltk_data / folder
        shutil.make_archive(str(tmp_path / folder), "zip", source.parent, source.name)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert resolve(spec) == unpacked
    assert Tokenizer(unpacked)(["The dogs ran."]).to_lists() == [["dog", "ran", "."]]


@pytest.mark.parametrize("texts", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_wordnet_lemmas_equal_nltks(texts: int, nltk_data: Path, imdb: list[str]) -> None:
    from nltk.stem import WordNetLemmatizer

    edge_cases = ["us", "men", "aardwolves", "abaci", "'s", "", "s", "less", "was"]
    words = [*tokenizer()(imdb[:texts]).types.to_pylist(), *edge_cases]
    theirs = WordNetLemmatizer()
    noun, first = WordNet("noun"), WordNet("first")
    for word in words:
        assert noun(word) == theirs.lemmatize(word, "n")
        changed = [lemma for pos in "nvar" if (lemma := theirs.lemmatize(word, pos)) != word]
        assert first(word) == (changed[0] if changed else word)
    assert (noun("running"), first("running"), first("better")) == ("running", "run", "good")


def test_simplemma_by_language() -> None:
    assert tokenizer(lemmatizer="simplemma")(["The dogs were running"]).to_lists() == [["the", "dog", "be", "run"]]
    with pytest.raises(ConfigError, match="simplemma has no language 'xx'"):
        resolve(TextSpec(lemmatizer="simplemma", language="xx"))


def test_only_what_changes_results_is_recorded(nltk_data: Path) -> None:
    assert dict(resolve(TextSpec(stop_words="nltk")).resources) == {}
    assert set(resolve(TextSpec(tokenizer="nltk_line")).resources) == {"nltk"}
    assert set(resolve(TextSpec(tokenizer="nltk", lemmatizer="wordnet")).resources) == {"nltk", "punkt_tab", "wordnet"}


def test_stop_words_and_lemmas_apply_to_each_token_of_a_chunk_that_holds_several(nltk_data: Path) -> None:
    fields = {"stop_words": "nltk", "lemmatizer": "wordnet"}
    assert tokenizer(**fields)(["naïve…the…films"]).to_lists() == [["naïve", "film"]]
    assert tokenizer(**fields, tokenizer="nltk_line")(["The dogs, (cats) aren't: the end."]).to_lists() == [
        ["dog", ",", "(", "cat", ")", "n't", ":", "end", "."]
    ]
