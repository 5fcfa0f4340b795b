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
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from harness.config import DAMAGED, model_from_dict
from harness.rundir.json_files import read_object
from harness.rundir.layout import BUNDLE
from harness.rundir.places import instead
from harness.settings.task import CLASSIFIER, LANGUAGE_MODEL, Task
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.typed import Between, Count, Positive, Sha256, Spelt, typed
from preprocessing.base.untrusted import read_bytes, shown
from preprocessing.dataset.shards import REBUILD, VOCABULARY
from preprocessing.labels import LabelType, fits

FORMAT, FORMAT_VERSION = "padless-bundle", 2
INDEX = "bundle.json"
SEAL = "sha256"
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
Hash = Annotated[str, Spelt("[!-~]{0,128}", "a hash")]
LEAST_LABELS = 2
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
"""Far beyond those between which one is fitted."""


@dataclass(frozen=True)
class BundleInfo:
    """``bundle.json``."""

    weights: Annotated[str, Between(1, 255)]
    """File name of the safetensors file."""
    weights_sha256: Sha256
    model: dict[str, Any]
    """The ``ModelConfig``."""
    vocabulary_size: Positive
    vocabulary_hash: Hash
    text: dict[str, Any]
    text_hash: Hash
    labels: list[str]
    temperature: Annotated[float, Between(LEAST_TEMPERATURE, MOST_TEMPERATURE)]
    """Logits are divided by it before they become probabilities; fitted on the validation split."""
    threshold: Annotated[float, Between(0, 1)]
    """Probability of class 1 from which on it is predicted; two classes only."""
    step: Count
    """Optimizer steps behind these weights."""
    dataset: Hash
    """Fingerprint of the dataset they were trained on."""
    task: Task = CLASSIFIER
    """What the network has learned."""
    vectors: dict[str, Any] | None = None
    """Word vectors that the embedding started from: source, sha256, coverage; None: it started random."""
    started_from: dict[str, Any] | None = None
    """Weights of another bundle that these started from: source, hashes, coverage, parts; None: there were none."""
    soft_labels: dict[str, Any] | None = None
    """Soft labels that were learned: sha256, teacher, its figures; None: none were."""
    fold: Count | None = None
    """The fold of the dataset that was held out; None: its own validation split was."""
    label_type: LabelType = "text"
    """The type of the dataset's column of labels, and so of predictions."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


UNSAID: dict[str, Any] = {
    "started_from": None,
    "soft_labels": None,
    "fold": None,
    "task": CLASSIFIER,
    "label_type": "text",
}
"""What goes without saying: bundles were written before these keys were there."""


def bundle_directory(run: str | Path) -> Path:
    """The bundle directory of a run. A path that is a bundle directory already stays as it is."""
    return Path(run) if Path(run, INDEX).exists() else Path(run, BUNDLE)


def write_vocabulary(directory: Path, dataset: Path) -> None:
    """Copy the dataset's vocabulary into a bundle that is about to be written.

    Raises ``DataError`` where it is gone, ``OSError`` where it cannot be written.
    """
    path = dataset / VOCABULARY
    try:
        data = read_bytes(path, memory())
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {REBUILD}") from None
    atomic.write_bytes(directory / VOCABULARY, data)


def write_weights(directory: Path, data: bytes) -> tuple[str, str]:
    """Write a safetensors file beside the one that ``bundle.json`` still names; the new one's name and sha256."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    atomic.write_bytes(directory / name, data)
    return name, digest


def write_info(directory: Path, info: BundleInfo) -> None:
    """Replace ``bundle.json``, then delete every weights file but the one that it names."""
    content = content_of(info)
    atomic.write_json(directory / INDEX, {**content, SEAL: seal_of(content)})
    for old in directory.glob("weights-*.safetensors"):
        if WEIGHTS.fullmatch(old.name) and old.name != info.weights:
            old.unlink()


def content_of(info: BundleInfo) -> dict[str, Any]:
    """What ``bundle.json`` says, but for its seal."""
    content = asdict(info)
    for name, before in UNSAID.items():
        if content[name] == before:
            del content[name]
    return content


def read_info(directory: Path) -> BundleInfo:
    """Read ``bundle.json``. Raises ``DataError`` for a missing, damaged or foreign one."""
    path = directory / INDEX
    content = read_object(path) if directory.is_dir() else None
    if content is None:
        raise DataError(f"{path}: missing: {instead(directory)}")
    if content.get("format") != FORMAT:
        raise DataError(f"{path}: not a padless bundle; name a run directory, or a bundle")
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise DataError(
            f"{path}: format version {shown(found)}, this padless reads version {FORMAT_VERSION} (which holds a "
            "temperature): train again, or use the padless that wrote it"
        )
    seal = content.pop(SEAL, None)  # bundles were written without one before
    if seal is not None and seal != seal_of(content):
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; restore it")
    info = typed(BundleInfo, content, str(path), DAMAGED)
    model_from_dict(info.model, str(path))
    if len(set(info.labels)) < len(info.labels) or (info.task == CLASSIFIER and len(info.labels) < LEAST_LABELS):
        raise DataError(f"{path}: labels is {shown(info.labels)}, expected two or more different ones; {DAMAGED}")
    if not fits(info.labels, info.label_type):
        raise DataError(f"{path}: label_type is {info.label_type}, and labels are other values; {DAMAGED}")
    return info


def check_classifier(directory: Path, info: BundleInfo) -> None:
    """Raise ``ConfigError`` for weights that tell no labels apart, with what to do with them."""
    if info.task == LANGUAGE_MODEL:
        raise ConfigError(
            f"{directory / INDEX}: a pretrained language model, which knows no labels; train a classifier that starts "
            f"from it, with --init.weights {directory}, and name that run"
        )


def seal_of(content: dict[str, Any]) -> str:
    """The sha256 by which ``bundle.json`` vouches for the rest of itself."""
    return hashlib.sha256(atomic.canonical_json(content)).hexdigest()


@dataclass(frozen=True)
class Peek:
    """What a bundle of any version says, before anything of it is needed."""

    dataset: str | None = None
    step: Count | None = None
    fold: Count | None = None
    labels: list[str] = field(default_factory=list)


def peek(directory: Path) -> Peek:
    """What ``bundle.json`` says of a few things; nothing without one. Raises ``DataError`` for a damaged one."""
    path = directory / INDEX
    content = read_object(path) or {}
    return typed(Peek, {one.name: content[one.name] for one in fields(Peek) if one.name in content}, str(path), DAMAGED)


def read_fingerprint(directory: Path) -> str | None:
    """Fingerprint of the dataset behind a bundle of any version; None without a bundle."""
    return peek(directory).dataset


def read_fold(directory: Path) -> int | None:
    """The fold that the training of a bundle held out; None if it held none out, and without a bundle."""
    return peek(directory).fold


def weights_path(directory: Path, info: BundleInfo) -> Path:
    """The file of the weights. Raises ``DataError`` for a name that leads out of the bundle."""
    if "/" in info.weights or not info.weights.isprintable() or info.weights in (".", ".."):
        raise DataError(
            f"{directory / INDEX}: names weights outside its own folder ({shown(info.weights)}); restore it"
        )
    return directory / info.weights


def read_weights(directory: Path, info: BundleInfo) -> bytes:
    """The safetensors file that ``info`` names. Raises ``DataError`` if it is missing or was changed."""
    path = weights_path(directory, info)
    try:
        data = read_bytes(path, memory())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: the bundle names these weights") from None
    if hashlib.sha256(data).hexdigest() != info.weights_sha256:
        raise DataError(f"{path}: its sha256 is not the one in {INDEX}: bytes were changed")
    return data


def memory() -> int:
    """Bytes that this machine has: more than that is read of no file."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
