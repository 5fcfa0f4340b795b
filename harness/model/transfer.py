# SPDX-License-Identifier: Apache-2.0
"""A model that begins with the weights of another one, as far as they fit.

The embedding is matched row by row, by token; the rest part by part, where a part means the same in both models. What
is not taken starts as it would have without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn

from harness.config import ModelConfig
from harness.model.donor import Donor
from harness.model.initial import covered
from harness.model.stored import read_tensors
from harness.settings.task import CLASSIFIER
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import Manifest
from preprocessing.text.vocabulary import PAD, RESERVED, Vocabulary

EMBEDDING = "embedding.weight"
WIDE = "wide part"


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

    @torch.no_grad()
    def put_into(self, network: nn.Module) -> None:
        """Replace what the other model has; the scale of its vectors stays what its layers are used to."""
        own = network.state_dict()
        found = self.embedding[torch.from_numpy(self.rows)]
        own[EMBEDDING][torch.from_numpy(self.ids).to(own[EMBEDDING].device)] = found.to(own[EMBEDDING])
        for name, values in self.weights.items():
            own[name].copy_(values)


def weights_of(donor: Donor, model: ModelConfig, vocabulary: Vocabulary, manifest: Manifest) -> StartWeights:
    """The weights of a bundle for a ``model`` on a dataset. Raises ``DataError`` if they are damaged or share nothing.

    ``donor`` was found for this model, so that its layers have the same shape.
    """
    weights = read_tensors(donor.directory, donor.info, donor.model)
    ids, rows = matched(vocabulary, donor.vocabulary)
    if ids[-1] < len(RESERVED):
        raise DataError(
            f"{donor.directory}: none of the {len(donor.vocabulary) - len(RESERVED):,} tokens of its vocabulary is in "
            "the dataset's; is it of another language, or were its texts read otherwise (case, lemmas)?"
        )
    taken, left = parts_of(donor, set(weights), model, manifest)
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
        **covered(has, vocabulary),
        "std": round(float(weights[EMBEDDING][torch.from_numpy(rows)].std(correction=0)), 4),
        "taken": ["embedding", *taken],
        "as_usual": left,
    }
    prefixes = tuple(prefix for one in taken.values() for prefix in one)
    fitting = {name: values for name, values in weights.items() if prefixes and name.startswith(prefixes)}
    return StartWeights(fitting, weights[EMBEDDING], ids, rows, facts)


def matched(own: Vocabulary, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Ids of ``own`` whose tokens ``other`` has too, and their ids there; ``<unk>`` is one, ``<pad>`` none."""
    found = pc.fill_null(pc.index_in(own.tokens, value_set=other.tokens), PAD).to_numpy(zero_copy_only=False)
    ids = np.flatnonzero(found != PAD)
    return ids, found[ids].astype(np.int64)


def parts_of(
    donor: Donor, names: set[str], model: ModelConfig, manifest: Manifest
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """What is taken beside the embedding, with the beginnings of its weights' names; what is not, and why.

    ``names`` are those of the weights that there are.
    """
    taken: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    for number in range(model.num_layers):
        prefix, layer = f"recurrent.layers.{number}.", f"recurrent layer {number + 1}"
        if any(name.startswith(prefix) for name in names):
            taken[layer] = (prefix,)
        else:
            left[layer] = "there is none"
    why = head_differs(donor, model, manifest)
    if why:
        left["head"] = why
    else:
        taken["head"] = ("pooling.", "head.")
    if model.wide:
        why = wide_differs(donor, model, manifest)
        if why:
            left[WIDE] = why
        else:
            taken[WIDE] = ("wide.",)
    return taken, left


def head_differs(donor: Donor, model: ModelConfig, manifest: Manifest) -> str:
    """Why the last layer would mean something else, or nothing."""
    if donor.info.task != CLASSIFIER:
        return "there is none"
    if donor.info.labels != manifest.labels:
        return "of other classes"
    if donor.model.num_layers != model.num_layers:
        return f"above {donor.model.num_layers} recurrent layers"
    if donor.model.pooling != model.pooling:
        return f"of pooling {donor.model.pooling}"
    return ""


def wide_differs(donor: Donor, model: ModelConfig, manifest: Manifest) -> str:
    """Why the hashed n-grams would mean something else, or nothing."""
    if donor.info.task != CLASSIFIER or not donor.model.wide:
        return "there is none"
    if donor.model.wide != model.wide:
        return f"of {donor.model.wide:,} buckets"
    if donor.model.wide_ngrams != model.wide_ngrams:
        return f"of n-grams of up to {donor.model.wide_ngrams} words"
    if donor.model.wide_tail != model.wide_tail:
        return f"of {donor.model.wide_tail} last tokens"
    if donor.model.wide_tf != model.wide_tf:
        return f"of {donor.model.wide_tf} counts"
    if donor.info.vocabulary_hash != manifest.vocabulary_hash:
        return "of another vocabulary"
    return "of other classes" if donor.info.labels != manifest.labels else ""


def in_words(facts: dict[str, Any]) -> str:
    """What weights with these facts are and what was taken, for the first lines of a run."""
    what = "a language model" if facts["task"] != CLASSIFIER else "a classifier"
    names = ", ".join(facts["taken"])
    usual = "; ".join(f"{name}: {why}" for name, why in facts["as_usual"].items())
    return f"{names} of {what}" + (f"; as usual start {usual}" if usual else "")
