# SPDX-License-Identifier: Apache-2.0
"""The run or bundle that ``init.weights`` names: whether it is whole, and whether its layers fit the model.

Nothing here imports torch: the launcher asks before any process starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.config import ModelConfig, model_from_dict
from harness.rundir.bundle_files import INDEX, BundleInfo, bundle_directory, read_info
from harness.rundir.many_runs import in_words, members
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.vocabulary import Vocabulary

SHAPE = ("cell", "embedding_dim", "hidden_size", "bidirectional")
"""Keys of the model that decide the names and shapes of the embedding and of each recurrent layer."""


@dataclass(frozen=True)
class Donor:
    """A bundle whose weights another model may begin with."""

    directory: Path
    info: BundleInfo
    model: ModelConfig
    vocabulary: Vocabulary

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.directory / self.info.weights


def find_donor(named: str, wanted: ModelConfig) -> Donor:
    """The bundle that ``init.weights`` names for a model like ``wanted``; its weights are not read yet.

    Raises ``ConfigError`` if it is not there or has another shape, ``DataError`` if it is damaged.
    """
    path = Path(named)
    if not path.exists():
        raise ConfigError(f"init.weights: {named}: there is no such run or bundle; name another")
    directory = bundle_directory(path)
    if runs := members(path):
        raise ConfigError(
            f"init.weights: {named}: holds the runs {in_words(runs)}; name one of them, as in {runs[0].path}"
        )
    if not path.is_dir() or not (directory / INDEX).exists():
        raise ConfigError(
            f"init.weights: {named}: not a bundle, nor a run that has finished an epoch; name the directory of one"
        )
    info = read_info(directory)
    model = model_from_dict(info.model, str(directory / INDEX))
    check_shape(named, model, wanted)
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        raise DataError(
            f"{directory / VOCABULARY}: its hash is not the one the weights were trained with; "
            "restore the bundle's own vocabulary"
        )
    donor = Donor(directory, info, model, vocabulary)
    if not donor.weights.is_file():
        raise DataError(f"{donor.weights}: missing: {INDEX} beside it names these weights; restore them")
    return donor


def check_shape(named: str, model: ModelConfig, wanted: ModelConfig) -> None:
    """Raise ``ConfigError`` that says which keys of the model to set, and to what."""
    others = [key for key in SHAPE if getattr(model, key) != getattr(wanted, key)]
    if others:
        keys = " and ".join(
            f"model.{key} to {spelt(getattr(model, key))} (now {spelt(getattr(wanted, key))})" for key in others
        )
        raise ConfigError(f"init.weights: {named} has layers of another shape; set {keys}")


def spelt(value: object) -> str:
    """A value as a configuration has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
