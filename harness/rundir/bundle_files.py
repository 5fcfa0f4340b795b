# SPDX-License-Identifier: Apache-2.0
"""``bundle/``: weights, vocabulary, text pipeline, temperature and threshold, all that prediction needs.

::

    bundle/weights-<sha256>.safetensors
    bundle/vocabulary.arrow
    bundle/training.json      what the training rows were like (``training_facts``)
    bundle/bundle.json        written last; names the two with their hashes

New weights get a new name and ``bundle.json`` is replaced in one step, so a reader sees one bundle or the next (law 2).
Here are bytes and plain values; what they mean to a model is for ``harness.inference.bundle``.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.rundir.json_files import read_object
from harness.rundir.layout import BUNDLE
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY

FORMAT, FORMAT_VERSION = "padless-bundle", 2
INDEX = "bundle.json"


@dataclass(frozen=True)
class BundleInfo:
    """``bundle.json``."""

    weights: str
    """File name of the safetensors file."""
    weights_sha256: str
    model: dict[str, Any]
    """The ``ModelConfig``."""
    vocabulary_size: int
    vocabulary_hash: str
    text: dict[str, Any]
    text_hash: str
    labels: list[str]
    temperature: float
    """Logits are divided by it before they become probabilities; fitted on the validation split."""
    threshold: float
    """Probability of class 1 from which on it is predicted; two classes only."""
    step: int
    """Optimizer steps behind these weights."""
    dataset: str
    """Fingerprint of the dataset they were trained on."""
    vectors: dict[str, Any] | None = None
    """Word vectors that the embedding started from: source, sha256, coverage; None: it started random."""
    soft_labels: dict[str, Any] | None = None
    """Soft labels that were learned: sha256, teacher, its figures; None, and then not written: none were."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


def bundle_directory(run: str | Path) -> Path:
    """The bundle directory of a run. A path that is a bundle directory already stays as it is."""
    return Path(run) if Path(run, INDEX).exists() else Path(run, BUNDLE)


def write_vocabulary(directory: Path, dataset: Path) -> None:
    """Copy the dataset's vocabulary into a bundle that is about to be written."""
    atomic.write_bytes(directory / VOCABULARY, (dataset / VOCABULARY).read_bytes())


def write_weights(directory: Path, data: bytes) -> tuple[str, str]:
    """Write a safetensors file beside the one that ``bundle.json`` still names; the new one's name and sha256."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    atomic.write_bytes(directory / name, data)
    return name, digest


def write_info(directory: Path, info: BundleInfo) -> None:
    """Replace ``bundle.json``, then delete every weights file but the one that it names."""
    content = asdict(info)
    if info.soft_labels is None:
        del content["soft_labels"]
    atomic.write_json(directory / INDEX, content)
    for old in directory.glob("weights-*.safetensors"):
        if old.name != info.weights:
            old.unlink()


def read_info(directory: Path) -> BundleInfo:
    """Read ``bundle.json``. Raises ``DataError`` for a missing, damaged or foreign one."""
    path = directory / INDEX
    content = read_object(path)
    if content is None:
        hint = "this run has not finished an epoch, or is not a run directory"
        raise DataError(f"{path}: missing: {hint}; name a run whose training got that far")
    if content.get("format") != FORMAT:
        raise DataError(f"{path}: not a padless bundle")
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise DataError(
            f"{path}: format version {found}, this padless reads version {FORMAT_VERSION} (which holds a temperature): "
            "train again, or use the padless that wrote it"
        )
    try:
        return BundleInfo(**content)
    except TypeError as error:
        raise DataError(f"{path}: damaged ({error})") from None


def read_fingerprint(directory: Path) -> str | None:
    """Fingerprint of the dataset behind a bundle of any version; None without a bundle."""
    content = read_object(directory / INDEX) or {}
    return content.get("dataset")


def read_weights(directory: Path, info: BundleInfo) -> bytes:
    """The safetensors file that ``info`` names. Raises ``DataError`` if it is missing or was changed."""
    path = directory / info.weights
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: the bundle names these weights") from None
    if hashlib.sha256(data).hexdigest() != info.weights_sha256:
        raise DataError(f"{path}: its sha256 is not the one in {INDEX}: bytes were changed")
    return data
