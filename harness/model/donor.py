# SPDX-License-Identifier: Apache-2.0
"""A model that begins with the weights of the run or bundle that ``init.weights`` names, as far as they fit.

The embedding is matched row by row, by token; the rest part by part, where a part means the same in both models. What
is not taken starts as it would have without. The launcher asks whether the bundle is whole and fits before any process
starts, so torch is imported only where weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from harness.config import CLASSIFIER, ModelConfig, model_from_dict
from harness.model.vector_files import coverage_of
from harness.rundir.bundle_files import INDEX, BundleInfo, bundle_directory, read_info
from harness.rundir.layout import listed, members
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.vocabulary import PAD, RESERVED, Vocabulary

if TYPE_CHECKING:
    import torch
    from torch import nn

SHAPE = ("cell", "embedding_dim", "hidden_size", "bidirectional")
"""Keys of the model that decide the names and shapes of the embedding and of each recurrent layer."""
EMBEDDING = "embedding.weight"
WIDE = "wide part"


@dataclass(frozen=True)
class Donor:
    """A bundle whose weights another model may begin with."""

    directory: Path
    info: BundleInfo
    model: ModelConfig
    vocabulary: Vocabulary


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
            f"init.weights: {named}: holds the runs {listed(runs)}; name one of them, as in {runs[0].path}"
        )
    if not path.is_dir() or not (directory / INDEX).exists():
        raise ConfigError(
            f"init.weights: {named}: not a bundle, nor a run that has finished an epoch; name the directory of one"
        )
    info = read_info(directory)
    model = model_from_dict(info.model, str(directory / INDEX))
    others = [key for key in SHAPE if getattr(model, key) != getattr(wanted, key)]
    if others:
        keys = " and ".join(
            f"model.{key} to {spelt(getattr(model, key))} (now {spelt(getattr(wanted, key))})" for key in others
        )
        raise ConfigError(f"init.weights: {named} has layers of another shape; set {keys}")
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        raise DataError(
            f"{directory / VOCABULARY}: its hash is not the one the weights were trained with; "
            "restore the bundle's own vocabulary"
        )
    weights = directory / info.weights
    if not weights.is_file():
        raise DataError(f"{weights}: missing: {INDEX} beside it names these weights; restore them")
    return Donor(directory, info, model, vocabulary)


def spelt(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class StartWeights:
    """Weights that fit a model, and what is said of them."""

    weights: dict[str, torch.Tensor]
    """By the name that the model has for them, whole; all but the embedding."""
    embedding: torch.Tensor
    """``[its vocabulary, dim]``: of the model that they are from."""
    ids: np.ndarray
    """int64 ``[found]``: ids of the model's own vocabulary whose tokens the other one has, too."""
    rows: np.ndarray
    """int64 ``[found]``: those tokens' rows of ``embedding``."""
    facts: dict[str, Any]
    """What run, checkpoints, bundle and report say of them: source, hashes, coverage, what was taken and what not."""

    def put_into(self, network: nn.Module) -> None:
        """Replace what the other model has; the scale of its vectors stays what its layers are used to."""
        own = network.state_dict()  # detached: written to without a gradient
        own[EMBEDDING][self.ids] = self.embedding[self.rows].to(own[EMBEDDING])
        for name, values in self.weights.items():
            own[name].copy_(values)


def weights_of(donor: Donor, model: ModelConfig, vocabulary: Vocabulary, manifest: Manifest) -> StartWeights:
    """The weights of a bundle for a ``model`` on a dataset. Raises ``DataError`` if they are damaged or share nothing.

    ``donor`` was found for this model, so that its layers have the same shape.
    """
    from harness.model.networks import read_tensors

    weights = read_tensors(donor.directory, donor.info, donor.model)
    ids, rows = matched(vocabulary, donor.vocabulary)
    if ids[-1] < len(RESERVED):
        raise DataError(
            f"{donor.directory}: none of the {len(donor.vocabulary) - len(RESERVED):,} tokens of its vocabulary is in "
            "the dataset's; is it of another language, or were its texts read otherwise (case, lemmas)?"
        )
    parts = parts_of(donor, model, manifest)
    taken = [part for part, (_, why) in parts.items() if not why]
    prefixes = tuple(prefix for part in taken for prefix in parts[part][0])
    has = np.zeros(len(vocabulary), bool)
    has[ids] = True
    info = donor.info
    facts = {
        "source": str(donor.directory),
        "task": info.task,
        "sha256": info.weights_sha256,
        "vocabulary_hash": info.vocabulary_hash,
        "dataset": info.dataset,
        "step": info.step,
        **coverage_of(has, vocabulary),
        "std": round(float(weights[EMBEDDING][rows].std(correction=0)), 4),
        "taken": ["embedding", *taken],
        "as_usual": {part: why for part, (_, why) in parts.items() if why},
    }
    fitting = {name: values for name, values in weights.items() if name.startswith(prefixes)} if prefixes else {}
    return StartWeights(fitting, weights[EMBEDDING], ids, rows, facts)


def matched(own: Vocabulary, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Ids of ``own`` whose tokens ``other`` has too, and their ids there; ``<unk>`` is one, ``<pad>`` none."""
    found = pc.fill_null(pc.index_in(own.tokens, value_set=other.tokens), PAD).to_numpy(zero_copy_only=False)
    ids = np.flatnonzero(found != PAD)
    return ids, found[ids].astype(np.int64)


def parts_of(donor: Donor, model: ModelConfig, manifest: Manifest) -> dict[str, tuple[tuple[str, ...], str]]:
    """Each part of a model beside the embedding: how its weights' names begin, and why it is not taken; "" if it is."""
    layers = donor.model.num_layers if donor.info.task == CLASSIFIER else 1
    parts: dict[str, tuple[tuple[str, ...], str]] = {
        f"recurrent layer {number + 1}": ((f"recurrent.layers.{number}.",), "" if number < layers else "there is none")
        for number in range(model.num_layers)
    }
    parts["head"] = (("pooling.", "head."), head_differs(donor, model, manifest))
    if model.wide:
        parts[WIDE] = (("wide.",), wide_differs(donor, model, manifest))
    return parts


def head_differs(donor: Donor, model: ModelConfig, manifest: Manifest) -> str:
    """Why the last layer would mean something else, or nothing."""
    reasons = [
        (donor.info.task != CLASSIFIER, "there is none"),
        (donor.info.labels != manifest.labels, "of other classes"),
        (donor.model.num_layers != model.num_layers, f"above {donor.model.num_layers} recurrent layers"),
        (donor.model.pooling != model.pooling, f"of pooling {donor.model.pooling}"),
    ]
    return first_of(reasons)


def wide_differs(donor: Donor, model: ModelConfig, manifest: Manifest) -> str:
    """Why the hashed n-grams would mean something else, or nothing."""
    theirs = donor.model
    reasons = [
        (donor.info.task != CLASSIFIER or not theirs.wide, "there is none"),
        (theirs.wide != model.wide, f"of {theirs.wide:,} buckets"),
        (theirs.wide_ngrams != model.wide_ngrams, f"of n-grams of up to {theirs.wide_ngrams} words"),
        (theirs.wide_tail != model.wide_tail, f"of {theirs.wide_tail} last tokens"),
        (theirs.wide_tf != model.wide_tf, f"of {theirs.wide_tf} counts"),
        (donor.info.vocabulary_hash != manifest.vocabulary_hash, "of another vocabulary"),
        (donor.info.labels != manifest.labels, "of other classes"),
    ]
    return first_of(reasons)


def first_of(reasons: list[tuple[bool, str]]) -> str:
    return next((reason for holds, reason in reasons if holds), "")


def describe_weights(facts: dict[str, Any]) -> str:
    """What weights with these facts are and what was taken, for the first lines of a run."""
    what = "a language model" if facts["task"] != CLASSIFIER else "a classifier"
    names = ", ".join(facts["taken"])
    usual = "; ".join(f"{name}: {why}" for name, why in facts["as_usual"].items())
    return f"{names} of {what}" + (f"; as usual start {usual}" if usual else "")
