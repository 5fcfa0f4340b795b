# SPDX-License-Identifier: Apache-2.0
"""The one place that downloads: NLTK's stop words, WordNet and sentence models, when the user asks for them."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.base.errors import UserError
from preprocessing.base.storage import told

RESOURCES = ("stopwords", "wordnet", "punkt_tab")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Download NLTK's stop words, WordNet and sentence models; nothing else ever downloads."""

    dir: str | None = None
    """Where to put it; set NLTK_DATA to it afterwards. null: NLTK's own choice."""
    index: str | None = None
    """URL of the index.xml of a mirror."""


def main(config: FetchConfig) -> None:
    """Download NLTK's data."""
    print(f"fetch-nltk: all there, in {fetch_nltk(config.dir, config.index)}")


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
            if isinstance(error, OSError) and (refused := told(error)) is not None:
                raise refused from None
            raise UserError(
                f"fetch-nltk: {resource}: {' '.join(str(error).split())}; is {downloader.url} reachable?"
            ) from None
        for message in messages:
            if isinstance(message, ErrorMessage):
                raise UserError(f"fetch-nltk: {resource}: {message.message}; is {downloader.url} reachable?")
    return str(directory or downloader.download_dir)
