# SPDX-License-Identifier: Apache-2.0
"""The network of each task."""

from __future__ import annotations

from harness.config import RunConfig
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel
from harness.model.language_objective import LanguageObjective
from harness.settings.task import CLASSIFIER, LANGUAGE_MODEL, Task
from preprocessing.dataset.shards import Manifest

AnyNetwork = Classifier | LanguageModel
AnyObjective = Objective | LanguageObjective


def build_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network that a configuration describes, for a dataset; weights are drawn from torch's global generator."""
    if config.task == LANGUAGE_MODEL:
        return LanguageModel(config.model, manifest.vocabulary_size)
    return Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))


def task_of(network: AnyNetwork) -> Task:
    """What a network has learned."""
    return LANGUAGE_MODEL if isinstance(network, LanguageModel) else CLASSIFIER


def predictions_of(network: AnyNetwork) -> int:
    """How many tokens a network predicts for each token but one of a text; 0 for a classifier."""
    return network.num_directions if isinstance(network, LanguageModel) else 0


def answers_of(config: RunConfig, manifest: Manifest) -> int:
    """How many answers there are among which a prediction is made: labels, or tokens."""
    return manifest.vocabulary_size if config.task == LANGUAGE_MODEL else len(manifest.labels)
