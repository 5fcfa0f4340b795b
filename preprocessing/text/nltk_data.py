# SPDX-License-Identifier: Apache-2.0
"""NLTK's language data: find it, hash it, or say what is missing, where it was looked for and what fetches it.

Nothing here downloads. Compute nodes have no internet, and a silent fallback would change results.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any

from preprocessing.base.errors import ConfigError, DataError

NLTK_LANGUAGES = {
    "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "et": "estonian",
    "fi": "finnish", "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sl": "slovene", "sv": "swedish",
    "tr": "turkish", "ar": "arabic", "id": "indonesian", "kk": "kazakh", "zh": "chinese",
}  # fmt: skip


def language_name(language: str) -> str:
    """NLTK's name of a language code; raises :class:`ConfigError` when we know none."""
    if language not in NLTK_LANGUAGES:
        known = ", ".join(sorted(NLTK_LANGUAGES))
        raise ConfigError(f"text.language: NLTK's name for {language!r} is not known here; known are {known}")
    return NLTK_LANGUAGES[language]


def find_folder(resource: str, package: str) -> Any:
    """NLTK's path pointer to a folder such as ``corpora/wordnet``, unpacked or inside its zip file.

    ``package`` is its name for the downloader. Raises :class:`DataError` when it is not installed.
    """
    import nltk.data

    kind, _, name = resource.partition("/")
    for candidate in (f"{resource}/", f"{kind}/{package}.zip/{name}/"):
        with suppress(LookupError):
            return nltk.data.find(candidate)
    looked = ", ".join(nltk.data.path)
    raise DataError(
        f"NLTK's {resource} is not installed (looked in {looked}); on a machine with internet access run "
        f"`python -m preprocessing fetch-nltk`, or set NLTK_DATA to the folder that holds it"
    )


def read_file(folder: Any, name: str) -> bytes:
    """The bytes of one file of an NLTK folder; raises :class:`DataError` when the file is not there."""
    try:
        with folder.join(name).open() as stream:
            data = stream.read()
    except OSError as error:
        raise DataError(f"{folder} lacks the file {name} ({error}); fetch this resource again") from error
    return data.encode() if isinstance(data, str) else data


def fingerprint(folder: Any, names: list[str]) -> str:
    """``sha256:…`` over the named files of an NLTK folder."""
    digest = hashlib.sha256()
    for name in names:
        data = read_file(folder, name)
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"
