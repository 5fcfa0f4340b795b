# SPDX-License-Identifier: Apache-2.0
"""The language data of this machine that text pipelines use: stop words, lemmas, NLTK's files.

:func:`resolve_pipeline` records the stop words and versions that a :class:`TextSpec` refers to here.
:func:`verify_resources` checks, perhaps on another machine, that a pipeline still gives the same tokens. Nothing is
downloaded: compute nodes have no internet, and a silent fallback would change results.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

from padless.core.errors import DataError
from padless.core.installed import load_object
from padless.core.untrusted import one_line, read_bytes
from preprocessing.text.characters import normalize
from preprocessing.text.spec import TOKENIZERS, TextPipeline, TextSpec

PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]
MAX_STOP_WORDS_BYTES = 16 << 20
"""Largest file of stop words."""
NEGATIONS = (
    "no not nor none nobody nothing nowhere neither never without cannot n't hardly barely scarcely ain aren couldn "
    "didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"
)
CONTRACTIONS = ("n't", "dont", "cant", "wont", "isnt", "didnt", "doesnt", "wasnt", "couldnt", "wouldnt")
"""Endings of negations."""


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
    return versions


def nltk_versions(_: TextSpec) -> dict[str, str]:
    """What decides the tokens of NLTK: its version and a hash of the Punkt model of English sentences."""
    import nltk

    folder = find_folder("tokenizers/punkt_tab/english")
    return {"nltk": str(nltk.__version__), "punkt_tab": fingerprint(folder, PUNKT_FILES)}


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

    Raises :class:`DataError` when the list cannot be read.
    """
    if spec.stop_words == "none":
        return ()
    lines = read_stop_words(spec.stop_words)
    words = {normalize(word.strip().replace("’", "'"), spec.normalize) for word in lines}
    if spec.lowercase:
        words = {normalize(word.lower(), "nfc") for word in words}
    if spec.keep_negations:
        negations = NEGATIONS.split()
        words = {word for word in words if word.lower() not in negations and not word.lower().endswith(CONTRACTIONS)}
    return tuple(sorted(words - {""}))


def read_stop_words(source: str) -> list[str]:
    """The words of a list as they are written. Raises :class:`DataError`."""
    if source == "nltk":
        return read_file(find_folder("corpora/stopwords"), "english").decode().split("\n")
    try:
        return read_bytes(source, MAX_STOP_WORDS_BYTES).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # the file name may be invalid
        raise DataError(
            f"text.stop_words: {source} cannot be read as UTF-8 ({one_line(error)}); name a file, or none or nltk"
        ) from error


WORDNET_FILES = ["index.noun", "noun.exc"]


class WordNet:
    """The lemmas of ``nltk.stem.WordNetLemmatizer`` over NLTK's ``corpora/wordnet``; every token is a noun.

    They are Morphy's: exception lists, then suffix rules, then the shortest form that WordNet lists. The files are read
    without NLTK's reader, which takes five seconds and 130 MB in each process, and has no lock.
    """

    def __init__(self) -> None:
        """Read the files; raises :class:`DataError` when the data is not installed."""
        from nltk.corpus.reader.wordnet import NOUN, WordNetCorpusReader

        index, exceptions = (read_file(find_folder("corpora/wordnet"), name).decode() for name in WORDNET_FILES)
        self._lemmas = {line.partition(" ")[0] for line in index.split("\n") if line and line[0] != " "}
        rows = (line.split() for line in exceptions.split("\n"))
        self._lemmas_by_exception = {row[0]: row[1:] for row in rows if row}
        self._suffixes: list[tuple[str, str]] = WordNetCorpusReader.MORPHOLOGICAL_SUBSTITUTIONS[NOUN]

    def __call__(self, token: str) -> str:
        """The lemma of ``token``, or ``token`` itself when WordNet does not list it."""
        forms = self._lemmas_by_exception.get(token)
        if forms is None:
            suffixes = [(suffix, ending) for suffix, ending in self._suffixes if token.endswith(suffix)]
            forms = [token.removesuffix(suffix) + ending for suffix, ending in suffixes]
        return min((form for form in (token, *forms) if form in self._lemmas), key=len, default=token)


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
