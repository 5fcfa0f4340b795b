# SPDX-License-Identifier: Apache-2.0
"""The language data of this machine that text pipelines use: stop words, lemmas, NLTK's files.

:func:`resolve_pipeline` records the stop words and versions that a :class:`TextSpec` refers to here.
:func:`verify_resources` checks, perhaps on another machine, that a pipeline still gives the same tokens. Nothing is
downloaded: compute nodes have no internet, and a silent fallback would change results.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from padless.core.errors import ConfigError, DataError
from padless.core.installed import load_object
from padless.core.untrusted import one_line, read_bytes
from preprocessing.text.characters import nfc, normalize
from preprocessing.text.spec import TOKENIZERS, TextPipeline, TextSpec

NLTK_LANGUAGES = {
    "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "et": "estonian",
    "fi": "finnish", "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sl": "slovene", "sv": "swedish",
    "tr": "turkish", "ar": "arabic", "id": "indonesian", "kk": "kazakh", "zh": "chinese",
}  # fmt: skip
PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]
MAX_STOP_WORDS_BYTES = 16 << 20
"""Largest file of stop words."""
NEGATIONS = {
    "de": "nein nicht nichts nie niemals niemand kein keine keinem keinen keiner keines ohne weder",
    "en": "no not nor none nobody nothing nowhere neither never without cannot n't hardly barely scarcely "
    "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn",
    "es": "no ni nunca jamás nada nadie ningún ninguno ninguna tampoco sin",
    "fr": "ne n non ni pas jamais rien personne aucun aucune sans point nul nulle",
    "it": "no non né mai niente nulla nessuno nessuna senza neanche nemmeno neppure",
    "nl": "nee niet niets nooit niemand geen noch zonder",
    "pt": "não nem nunca jamais nada ninguém nenhum nenhuma sem",
}
CONTRACTIONS = ("n't", "dont", "cant", "wont", "isnt", "didnt", "doesnt", "wasnt", "couldnt", "wouldnt")
"""Endings of English negations."""


def resolve_pipeline(spec: TextSpec) -> TextPipeline:
    """Look up the stop words of ``spec`` and the versions of everything else here that decides its tokens.

    Raises :class:`DataError` naming what is missing, where it was searched, and the command that fetches it.
    """
    return TextPipeline(spec, stop_words(spec), resource_versions(spec))


def resource_versions(spec: TextSpec) -> dict[str, str]:
    """Name -> version or hash of everything installed here that decides the tokens of ``spec``, except stop words.

    Raises :class:`DataError` when something is missing.
    """
    resources = TOKENIZERS[spec.tokenizer].resources
    versions: dict[str, str] = {} if resources is None else load_object(resources)(spec)
    if spec.lemmatizer == "wordnet":
        versions["wordnet"] = fingerprint(find_folder("corpora/wordnet"), WORDNET_FILES)
    if spec.lemmatizer == "simplemma":
        simplemma(spec.language)
        versions["simplemma"] = str(load_object("simplemma:__version__"))
    return versions


def nltk_versions(spec: TextSpec) -> dict[str, str]:
    """What decides the tokens of NLTK: its version and, for sentences, a hash of the Punkt model of the language."""
    import nltk

    versions = {"nltk": str(nltk.__version__)}
    if spec.tokenizer == "nltk":
        folder = find_folder(f"tokenizers/punkt_tab/{language_name(spec.language)}")
        versions["punkt_tab"] = fingerprint(folder, PUNKT_FILES)
    return versions


def verify_resources(pipeline: TextPipeline) -> None:
    """Raise :class:`DataError` naming the first resource that is not the one the pipeline was resolved with."""
    versions = resource_versions(pipeline.spec)
    for name in sorted({*versions, *pipeline.resources}):
        expected, version = pipeline.resources.get(name), versions.get(name)
        if expected != version:
            raise DataError(
                f"the text pipeline was made with {name} {expected}, but {version} is installed here and would give "
                "other ids; install the former or run preprocessing again"
            )


def stop_words(spec: TextSpec) -> tuple[str, ...]:
    """The words to remove, sorted: normalized as texts are, with ``'`` for typographic apostrophes.

    Raises :class:`DataError` when the list cannot be read, :class:`ConfigError` when negations are to be kept and those
    of the language are unknown here.
    """
    if spec.stop_words == "none":
        return ()
    negations: list[str] = []
    if spec.keep_negations:
        if spec.language not in NEGATIONS:
            raise ConfigError(
                f"text.keep_negations: the negations of language {spec.language!r} are not known here; known are "
                f"{', '.join(sorted(NEGATIONS))}; set it to false and give a stop-word file without them"
            )
        negations = normalize(NEGATIONS[spec.language], spec).split()
    endings = CONTRACTIONS if negations and spec.language == "en" else ()
    lines = read_stop_words(spec.stop_words, spec.language)
    words = {normalize(word.strip().replace("’", "'"), spec) for word in lines}
    if spec.lowercase:
        words = {nfc(word.lower()) for word in words}
    words = {word for word in words if word.lower() not in negations and not word.lower().endswith(endings)}
    return tuple(sorted(words - {""}))


def read_stop_words(source: str, language: str) -> list[str]:
    """The words of a list as they are written. Raises :class:`DataError`."""
    if source == "nltk":
        folder = find_folder("corpora/stopwords")
        return read_file(folder, language_name(language)).decode().split("\n")
    if source == "stop-words":
        lists = importlib.import_module("stop_words")
        try:
            return list(lists.get_stop_words(language))
        except lists.StopWordError as error:
            raise DataError(
                f"the package stop-words has no list for language {language!r}; give a file instead"
            ) from error
    try:
        return read_bytes(source, MAX_STOP_WORDS_BYTES).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # the file name may be invalid
        raise DataError(
            f"text.stop_words: {source} cannot be read as UTF-8 ({one_line(error)}); name a file, or none, nltk or "
            "stop-words"
        ) from error


def lemmatizer(spec: TextSpec) -> Callable[[str], str] | None:
    """A function from one token to its lemma; None for none. Raises as :func:`resolve_pipeline`."""
    if spec.lemmatizer == "wordnet":
        return WordNet(spec.wordnet_pos)
    return simplemma(spec.language) if spec.lemmatizer == "simplemma" else None


def simplemma(language: str) -> Callable[[str], str]:
    """simplemma's lemma in one language; raises :class:`ConfigError` for a language it does not have."""
    lemmatizer = load_object("simplemma:Lemmatizer")()
    try:
        lemmatizer.lemmatize("word", lang=language)
    except ValueError as error:
        raise ConfigError(f"simplemma has no language {language!r}; see its list of language codes") from error
    return lambda token: lemmatizer.lemmatize(token, lang=language)


PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
"""Name in WordNet's files -> NLTK's."""
WORDNET_FILES = [f"index.{part}" for part in PARTS_OF_SPEECH]
WORDNET_FILES += [f"{part}.exc" for part in PARTS_OF_SPEECH]


class WordNet:
    """The rules of ``nltk.stem.WordNetLemmatizer`` over NLTK's ``corpora/wordnet``.

    They are Morphy's: exception lists, then suffix rules, then the shortest form that WordNet lists. The files are read
    without NLTK's reader, which takes five seconds and 130 MB in each process, and has no lock.
    """

    def __init__(self, pos: Literal["noun", "first"]) -> None:
        """Read the files; raises :class:`DataError` when the data is not installed.

        ``pos``: "noun" treats every token as a noun, "first" takes the first of noun, verb, adjective and adverb whose
        lemma differs from the token.
        """
        from nltk.corpus.reader.wordnet import WordNetCorpusReader

        folder = find_folder("corpora/wordnet")
        self._parts: list[tuple[set[str], dict[str, list[str]], list[tuple[str, str]]]] = []
        """Of each part of speech: its lemmas, exceptions as form -> lemmas, and suffixes with their replacements."""
        for part in ["noun"] if pos == "noun" else PARTS_OF_SPEECH:
            lines = read_file(folder, f"index.{part}").decode().split("\n")
            lemmas = {line.partition(" ")[0] for line in lines if line and line[0] != " "}
            rows = (line.split() for line in read_file(folder, f"{part}.exc").decode().split("\n"))
            exceptions = {row[0]: row[1:] for row in rows if row}
            suffixes = WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS[PARTS_OF_SPEECH[part]]
            self._parts.append((lemmas, exceptions, suffixes))

    def __call__(self, token: str) -> str:
        """The lemma of ``token``, or ``token`` itself when WordNet does not list it."""
        for lemmas, exceptions, suffixes in self._parts:
            forms = exceptions.get(token)
            if forms is None:
                forms = [token[: -len(suffix)] + ending for suffix, ending in suffixes if token.endswith(suffix)]
            lemma = min((form for form in (token, *forms) if form in lemmas), key=len, default=token)
            if lemma != token:
                return lemma
        return token


def language_name(language: str) -> str:
    """NLTK's name of a language code; raises :class:`ConfigError` for one without a name."""
    if language not in NLTK_LANGUAGES:
        languages = ", ".join(sorted(NLTK_LANGUAGES))
        raise ConfigError(f"text.language: NLTK's name for {language!r} is not known here; known are {languages}")
    return NLTK_LANGUAGES[language]


def find_folder(resource: str) -> Any:
    """NLTK's path pointer to a folder such as ``corpora/wordnet``, unpacked or inside its zip file.

    Raises :class:`DataError` when it is not installed.
    """
    import nltk.data

    kind, _, name = resource.partition("/")
    package = name.partition("/")[0]
    for candidate in (f"{resource}/", f"{kind}/{package}.zip/{name}/"):
        with suppress(LookupError):
            return nltk.data.find(candidate)
    folders = ", ".join(nltk.data.path)
    raise DataError(
        f"NLTK's {resource} is not installed (looked in {folders}); on a machine with internet access run "
        f"`python -m nltk.downloader {package}`, or set NLTK_DATA to the folder that holds it"
    )


def read_file(folder: Any, name: str) -> bytes:
    """The bytes of one file of an NLTK folder; raises :class:`DataError` when the file is not there."""
    try:
        with folder.join(name).open() as stream:
            data: bytes = stream.read()
    except OSError as error:
        raise DataError(f"{folder} lacks the file {name} ({error}); fetch this resource again") from error
    return data


def fingerprint(folder: Any, names: list[str]) -> str:
    """``sha256:…`` over the named files of an NLTK folder."""
    digest = hashlib.sha256()
    for name in names:
        data = read_file(folder, name)
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"
