# SPDX-License-Identifier: Apache-2.0
"""The one place that downloads: NLTK's stop words, WordNet and sentence models, when the user asks for them."""

from __future__ import annotations

from preprocessing.base.errors import UserError

RESOURCES = ("stopwords", "wordnet", "punkt_tab")


def fetch_nltk(directory: str | None, index: str | None) -> str:
    """Download what some options need into ``directory`` (none: NLTK's own choice); returns where it lies.

    ``index`` is the address of another server's ``index.xml``. Raises ``UserError`` when a download fails.
    """
    from nltk.downloader import Downloader, ErrorMessage

    downloader = Downloader(server_index_url=index, download_dir=directory)
    for resource in RESOURCES:
        try:
            messages = list(downloader.incr_download(resource, download_dir=directory))
        except (OSError, ValueError) as error:
            raise UserError(
                f"fetch-nltk: {resource}: {' '.join(str(error).split())}; is {downloader.url} reachable?"
            ) from None
        for message in messages:
            if isinstance(message, ErrorMessage):
                raise UserError(f"fetch-nltk: {resource}: {message.message}; is {downloader.url} reachable?")
    return str(directory or downloader.download_dir)
