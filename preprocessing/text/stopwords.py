# SPDX-License-Identifier: Apache-2.0
"""Stop words by the name of a list or from a file. Negations can be kept, since they decide sentiment."""

from __future__ import annotations

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import read_bytes
from preprocessing.text import nltk_data
from preprocessing.text.nfc import nfc

MOST_BYTES = 16 << 20
"""Of a file of stop words."""
_NEGATIONS = {
    "de": "nein nicht nichts nie niemals niemand kein keine keinem keinen keiner keines ohne weder",
    "en": "no not nor none nobody nothing nowhere neither never without cannot n't hardly barely scarcely "
    "ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn",
    "es": "no ni nunca jamás nada nadie ningún ninguno ninguna tampoco sin",
    "fr": "ne n non ni pas jamais rien personne aucun aucune sans point nul nulle",
    "it": "no non né mai niente nulla nessuno nessuna senza neanche nemmeno neppure",
    "nl": "nee niet niets nooit niemand geen noch zonder",
    "pt": "não nem nunca jamais nada ninguém nenhum nenhuma sem",
}


def is_negation(word: str, language: str) -> bool:
    """Whether removing ``word`` could turn a sentence into its opposite. English includes every ``…n't``, ``dont``."""
    if word in _NEGATIONS[language].split():
        return True
    contractions = ("n't", "dont", "cant", "wont", "isnt", "didnt", "doesnt", "wasnt", "couldnt", "wouldnt")
    return language == "en" and word.endswith(contractions)


def load(source: str, language: str, lowercase: bool, keep_negations: bool) -> tuple[str, ...]:
    """The words to remove, sorted: NFC, with ``'`` for typographic apostrophes, lower case if tokens are.

    ``source`` is none, nltk, stop-words, or the path of a UTF-8 file, one word a line. Raises :class:`DataError` when
    the list cannot be had, :class:`ConfigError` when negations should be kept in a language whose negations we lack.
    """
    if source == "none":
        return ()
    if keep_negations and language not in _NEGATIONS:
        known = ", ".join(sorted(_NEGATIONS))
        raise ConfigError(
            f"keep_negations: the negations of language {language!r} are not known here (known: {known}); "
            "set keep_negations to false and give a stop-word file without them"
        )
    words = {_normal(word, lowercase) for word in _read(source, language)} - {""}
    return tuple(sorted(word for word in words if not (keep_negations and is_negation(word.lower(), language))))


def _normal(word: str, lowercase: bool) -> str:
    word = nfc(word.strip().replace("’", "'"))
    return nfc(word.lower()) if lowercase else word


def _read(source: str, language: str) -> list[str]:
    if source == "nltk":
        folder = nltk_data.find_folder("corpora/stopwords", "stopwords")
        return nltk_data.read_file(folder, nltk_data.language_name(language)).decode().split("\n")
    if source == "stop-words":
        return _from_package(language)
    try:
        return read_bytes(source, MOST_BYTES).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"the stop-word file {source} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:  # a name may hold what no system takes
        raise DataError(
            f"the stop-word file {source} cannot be read ({getattr(error, 'strerror', error)}); "
            "stop_words is none, nltk, stop-words or a path"
        ) from error


def _from_package(language: str) -> list[str]:
    try:
        import stop_words
    except ModuleNotFoundError as error:
        raise DataError("the package stop-words is not installed; run `pip install stop-words`") from error
    try:
        return stop_words.get_stop_words(language)
    except stop_words.StopWordError as error:
        raise DataError(f"the package stop-words has no list for language {language!r}; give a file instead") from error
