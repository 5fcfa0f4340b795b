# SPDX-License-Identifier: Apache-2.0
"""The part of a bundle that every form of its network needs: what it says of itself, and its text→ids code.

Nothing here imports torch, and nothing in a bundle is executed when it is read.
"""

from __future__ import annotations

from pathlib import Path

from harness.rundir.bundle_files import INDEX, BundleInfo, check_classifier, read_export, read_info
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary


def read_sealed(directory: Path) -> tuple[BundleInfo, Vocabulary]:
    """What a classifier's bundle says of itself, and its vocabulary. The files of an export are held against its index
    before any is taken apart.

    Raises ``DataError`` if either is missing, damaged or does not belong to the other, ``ConfigError`` if the bundle
    holds a language model.
    """
    info = read_info(directory)
    check_classifier(directory, info)
    read_export(directory, info)
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        raise DataError(
            f"{directory / VOCABULARY}: its hash is not the one the weights were trained with; "
            "restore the bundle's own vocabulary"
        )
    return info, vocabulary


def encoder_of(info: BundleInfo, vocabulary: Vocabulary, directory: Path) -> Encoder:
    """The text→ids function of the bundle in ``directory``; raises ``DataError`` where it is not that of the training
    (law 1).
    """
    index = directory / INDEX
    encoder = Encoder(TextPipeline.from_json(info.text, index), vocabulary)
    if encoder.hash != info.text_hash:
        raise DataError(f"{index}: its text pipeline is not the one the weights were trained with; restore it")
    return encoder
