# SPDX-License-Identifier: Apache-2.0
"""What a TextSpec accepts, what it resolves to, and the sentence that bad input gets."""

from __future__ import annotations

import html as standard
import re
import shutil
import unicodedata
from pathlib import Path

import nltk.data
import numpy as np
import pyarrow as pa
import pytest

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.text import html, resources
from preprocessing.text import tokenizer as tokenizer_module
from preprocessing.text.characters import nfc
from preprocessing.text.resources import WordNet, resolve
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Tokenizer

pytestmark = pytest.mark.thorough


def tokenizer(**fields: object) -> Tokenizer:
    return Tokenizer(resolve(TextSpec(**fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": "spacy"}, "tokenizer: 'spacy' is out of range: expected one of word, nltk, nltk_line"),
        ({"truncate": "middle"}, "truncate: 'middle' is out of range: expected one of head, tail, both"),
        ({"lemmatizer": "porter"}, "lemmatizer: 'porter' is out of range: expected one of none, wordnet, simplemma"),
        ({"max_tokens": 0}, "max_tokens: 0 is out of range: expected at least 1"),
        ({"max_tokens": 2.5}, "max_tokens: 2.5 is out of range: expected a value of type int"),
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
        (["fine", float("nan")], "text 1 is nan"),
        (pa.array(["fine", None]), "text 1 is null"),
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
    assert len(tokenizer()(pa.chunked_array([], pa.string()))) == 0


def test_what_is_remembered_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "CACHE_BYTES", 1000)
    bounded = tokenizer()
    for number in range(5):
        assert bounded([f"{number}" * 900 + " short"]).to_lists() == [[f"{number}" * 900, "short"]]
        assert len(bounded._tokens) <= 3


def test_pieces_rounds_and_a_full_cache_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{number % 7} it’s naïve{number % 3} <i>{number}</i>" for number in range(50)]
    expected = tokenizer()(texts)
    monkeypatch.setattr(tokenizer_module, "PIECE_TEXTS", 3)
    monkeypatch.setattr(tokenizer_module, "ROUND_TEXTS", 5)
    monkeypatch.setattr(tokenizer_module, "CACHE_SURFACES", 4)
    small = tokenizer()
    for _ in range(2):
        result = small(texts)
        assert result.to_lists() == expected.to_lists()
        assert result.types.to_pylist() == expected.types.to_pylist()


def test_bytes_that_are_not_utf8_separate_words() -> None:
    data = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 5], np.int32)), pa.py_buffer(b"ab\xffcd")]
    )
    assert tokenizer()(data).to_lists() == [["ab", "cd"]]


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
    assert "the" in kept


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


def test_a_language_without_known_negations_is_refused() -> None:
    with pytest.raises(ConfigError, match="negations of language 'sv' are not known"):
        resolve(TextSpec(stop_words="stop-words", language="sv"))
    assert "och" in resources.stop_words("stop-words", "sv", True, False)


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
    assert resource in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "python -m preprocessing fetch-nltk" in str(error.value)


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


def test_wordnet_lemmas_equal_nltks(nltk_data: Path, imdb: list[str]) -> None:
    from nltk.stem import WordNetLemmatizer

    edge_cases = ["us", "men", "aardwolves", "abaci", "'s", "", "s", "less", "was"]
    words = [*tokenizer()(imdb[:1500]).types.to_pylist(), *edge_cases]
    theirs = WordNetLemmatizer()
    noun, first = WordNet("noun"), WordNet("first")
    assert [noun(word) for word in words] == [theirs.lemmatize(word, "n") for word in words]
    for word in words:
        changed = [lemma for pos in "nvar" if (lemma := theirs.lemmatize(word, pos)) != word]
        assert first(word) == (changed[0] if changed else word)
    assert (noun("running"), first("running"), first("better")) == ("running", "run", "good")


def test_simplemma_by_language() -> None:
    assert tokenizer(lemmatizer="simplemma")(["The dogs were running"]).to_lists() == [["the", "dog", "be", "run"]]
    assert resolve(TextSpec(lemmatizer="simplemma", language="de")).resources.keys() == {"simplemma"}
    with pytest.raises(ConfigError, match="simplemma has no language 'xx'"):
        resolve(TextSpec(lemmatizer="simplemma", language="xx"))


def test_only_what_changes_results_is_recorded(nltk_data: Path) -> None:
    assert dict(resolve(TextSpec()).resources) == {}
    assert dict(resolve(TextSpec(stop_words="nltk")).resources) == {}
    assert set(resolve(TextSpec(tokenizer="nltk_line")).resources) == {"nltk"}
    assert set(resolve(TextSpec(tokenizer="nltk", lemmatizer="wordnet")).resources) == {"nltk", "punkt_tab", "wordnet"}
    assert TextPipeline(TextSpec(), (), {}).to_json()["spec"]["tokenizer"] == "word"


def test_stop_words_and_lemmas_apply_to_each_token_of_a_chunk_that_holds_several(nltk_data: Path) -> None:
    fields = {"stop_words": "nltk", "lemmatizer": "wordnet"}
    assert tokenizer(**fields)(["naïve…the…films"]).to_lists() == [["naïve", "film"]]
    assert tokenizer(**fields, tokenizer="nltk_line")(["The dogs, (cats) aren't: the end."]).to_lists() == [
        ["dog", ",", "(", "cat", ")", "n't", ":", "end", "."]
    ]


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
    for zeros in (0, 1, 7, 30):
        for end in ("", ";", "x", "&#66;"):
            text = f"a &#{zeros * '0'}{digits}{end} b"
            assert html.clean(text) == standard.unescape(text)
    assert html.clean(f"a&#{9000 * '9'};b&#{9000 * '0'}65;") == "a\ufffdbA"
