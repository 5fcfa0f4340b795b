# SPDX-License-Identifier: Apache-2.0
"""``bundle/``: weights, vocabulary, text pipeline, temperature and threshold: all that prediction needs. Also exports.

::

    bundle/weights-<sha256>.safetensors
    bundle/vocabulary.arrow
    bundle/bundle.json        written last, sealed; names weights and vocabulary with their hashes. It also has
                              statistics of the training rows, and how they were read, so that the dataset is not
                              needed later

New weights get a new name and ``bundle.json`` is replaced in one step, so a reader sees one bundle or the next (law 2).
This module handles bytes and plain values; ``harness.inference.bundle`` makes models of them. An export is a bundle
with more files; it is read like a bundle::

    model.onnx                the network for ONNX Runtime, on request; bundle.json has its hash
    predict.py                predicts with it without padless; imports characters.py and reads vocabulary.json
    README.md                 the model card; users may edit it, so it has no hash
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psutil
from msgspec import Meta

from harness.config import CLASSIFIER, LANGUAGE_MODEL, ModelConfig, Task
from harness.rundir.json_files import (
    FileName,
    read_sealed,
    write_sealed,
)
from harness.rundir.layout import BUNDLE, describe_missing_bundle
from padless.core import atomic
from padless.core.errors import ConfigError, DataError
from padless.core.schema import AtLeast0, AtLeast1, Sha256, Share, convert_json
from padless.core.untrusted import quote_value, read_bytes
from preprocessing.config import ReadingOptions
from preprocessing.dataset.index import REBUILD
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest
from preprocessing.labels import LabelType, fits_label_type
from preprocessing.sources.addresses import HUB, fetch_repository, is_remote
from preprocessing.text.vocabulary import Vocabulary

KIND = ("padless-bundle", 3)
INDEX = "bundle.json"
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
DAMAGED = "written by another version of padless, or edited or damaged; restore it"
CARD = "README.md"
ONNX = "model.onnx"
FETCHED_FILES = ("*.json", "*.arrow", "*.safetensors", "*.onnx", "*.md")
"""The files of an export: only these are fetched from a repository."""
IDS, LENGTHS, LOGITS, PROBABILITIES = "ids", "lengths", "logits", "probabilities"
"""Names of the inputs and outputs of the ONNX graph."""
OF_WEIGHTS = "weights_sha256"
"""Key of figures: the hash of the safetensors file whose weights were measured."""


Length = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")]


class SplitFacts(TypedDict):
    """Statistics of a split."""

    rows: AtLeast0
    labels: dict[str, AtLeast0]
    lengths: dict[Length, AtLeast0]
    unknown_rate: Share | None


@dataclass(frozen=True)
class BundleInfo:
    """``bundle.json``."""

    weights: FileName
    """File name of the safetensors file."""
    weights_sha256: Sha256
    model: ModelConfig
    vocabulary_size: AtLeast1
    vocabulary_hash: str
    text: dict[str, Any]
    text_hash: str
    labels: list[str]
    temperature: Annotated[float, Meta(ge=1e-6, le=1e6)]
    """Logits are divided by it before they become probabilities; fitted on the validation split."""
    threshold: Share
    """Class 1 is predicted from this probability on; two classes only."""
    step: AtLeast0
    """Optimizer steps behind these weights."""
    dataset: str
    """Fingerprint of the dataset they were trained on."""
    task: Task = CLASSIFIER
    """The task of the network."""
    vectors: dict[str, Any] | None = None
    """Word vectors that the embedding started from: source, sha256, coverage; None: it started random."""
    started_from: dict[str, Any] | None = None
    """Weights of another bundle that these started from: source, hashes, coverage, parts; or None."""
    fold: AtLeast0 | None = None
    """The held-out fold of the dataset; None: its validation split was held out."""
    label_type: LabelType = "text"
    """The type of the dataset's label column, and of predictions."""
    source: ReadingOptions = field(default_factory=ReadingOptions)
    """Of the training's corpus: new rows are read in the same way."""
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    """Of the dataset, for a model card."""
    onnx_sha256: Sha256 | None = None
    """Of ``model.onnx``; None without one."""
    thresholds: list[Share] = field(default_factory=list)
    """With several labels to a text: each class is predicted from its probability on; else none."""

    @property
    def has_label_sets(self) -> bool:
        """Whether a text may have several labels, or none."""
        return bool(self.thresholds)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values; without ``thresholds`` where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "thresholds" or value}


def bundle_directory(run: str | Path) -> Path:
    """The bundle directory of a run; a bundle directory itself; or the copy of a repository of the hub (``hf://…``).

    Raises ``DataError`` for another address, and if the hub does not give the repository.
    """
    if str(run).startswith(HUB):
        return fetch_repository(str(run), FETCHED_FILES)
    if is_remote(str(run)):
        raise DataError(f"{run}: runs and bundles are read from this machine or {HUB}; copy it here, and name the copy")
    return Path(run) if Path(run, INDEX).exists() else Path(run, BUNDLE)


def write_vocabulary(directory: Path, dataset: Path) -> None:
    """Copy the dataset's vocabulary, which was checked before, into a new bundle. Raises ``OSError``."""
    atomic.write_bytes(directory / VOCABULARY, (dataset / VOCABULARY).read_bytes())


def read_vocabulary(directory: Path, info: BundleInfo) -> Vocabulary:
    """The vocabulary of a bundle. Raises ``DataError`` if it is missing, damaged or of other weights."""
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        problem = "its hash is not the one the weights were trained with; restore the bundle's own vocabulary"
        raise DataError(f"{directory / VOCABULARY}: {problem}")
    return vocabulary


def write_weights(directory: Path, data: bytes) -> tuple[str, str]:
    """Write a safetensors file beside the one that ``bundle.json`` still names; returns its name and sha256."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    atomic.write_bytes(directory / name, data)
    return name, digest


def write_info(directory: Path, info: BundleInfo) -> None:
    """Replace ``bundle.json``, then delete all other weights files."""
    write_sealed(directory / INDEX, KIND, info.to_json())
    for old in directory.glob("weights-*"):
        if WEIGHTS.fullmatch(old.name) and old.name != info.weights:
            old.unlink()


def find_info(directory: Path) -> BundleInfo | None:
    """Read ``bundle.json``; None where there is none. Raises ``DataError`` for a damaged or invalid one."""
    path = directory / INDEX
    content = read_sealed(path, KIND, "restore the bundle, or train again") if directory.is_dir() else None
    if content is None:
        return None
    info: BundleInfo = convert_json(BundleInfo, content, str(path), DAMAGED)
    if len(set(info.labels)) < len(info.labels) or (info.task == CLASSIFIER and len(info.labels) < 2):
        raise DataError(f"{path}: labels is {quote_value(info.labels)}, expected two or more different ones; {DAMAGED}")
    if len(info.thresholds) not in (0, len(info.labels)):
        raise DataError(f"{path}: thresholds has {len(info.thresholds)} numbers, not one for each label; {DAMAGED}")
    if not fits_label_type(info.labels, info.label_type):
        raise DataError(f"{path}: label_type is {info.label_type}, which labels do not match; {DAMAGED}")
    return info


def read_info(directory: Path) -> BundleInfo:
    """Read ``bundle.json``. Raises ``DataError`` for a missing, damaged or invalid one."""
    info = find_info(directory)
    if info is None:
        raise DataError(f"{directory / INDEX}: missing: {describe_missing_bundle(directory)}")
    return info


def has_weights(directory: Path, sha256: str) -> bool:
    """Whether this machine sees the bundle with these weights."""
    try:
        info = read_info(directory)
    except DataError:  # half of it is cached
        return False
    return info.weights_sha256 == sha256 and (directory / info.weights).exists()


def read_classifier(directory: Path) -> BundleInfo:
    """``read_info`` of a classifier. Raises ``ConfigError`` for a language model, with what to do instead."""
    info = read_info(directory)
    if info.task == LANGUAGE_MODEL:
        raise ConfigError(
            f"{directory / INDEX}: a pretrained language model, which has no labels; train a classifier that starts "
            f"from it, with --init.weights {directory}, and name that run"
        )
    return info


def read_named(path: Path, sha256: str, index: str) -> bytes:
    """Read a file and check its sha256, from an index. Raises ``DataError`` if it is missing or was changed."""
    try:
        data = read_bytes(path, psutil.virtual_memory().total)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: {index} names this file") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{path}: its sha256 is not the one in {index}: bytes were changed")
    return data


def source_of(manifest: Manifest) -> ReadingOptions:
    """How the texts of a dataset were read."""
    source = manifest.provenance.get("config", {}).get("source", {})
    options: ReadingOptions = convert_json(ReadingOptions, source, f"{MANIFEST}: source", REBUILD)
    return options


def split_facts(manifest: Manifest) -> dict[str, SplitFacts]:
    """For each split: rows, rows of each class, of each length after truncation, and the share of unknown tokens.

    The share is None if the manifest does not have it.
    """
    splits = dict[str, SplitFacts]()
    for name in manifest.splits:
        lengths = manifest.rows_by("lengths", name)
        splits[name] = {
            "rows": manifest.rows(name),
            "labels": dict(zip(manifest.labels, manifest.class_rows(name), strict=True)),
            "lengths": {str(length): rows for length, rows in lengths.items()},
            "unknown_rate": manifest.statistics.get("splits", {}).get(name, {}).get("unknown_rate"),
        }
    return splits
