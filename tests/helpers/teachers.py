# SPDX-License-Identifier: Apache-2.0
"""Targets of teachers, written on the spot, and a tiny sentence encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch

from harness.config import RunConfig
from harness.data.targets import write_targets
from preprocessing.dataset.shards import read_manifest
from tests.helpers.corpora import prepare
from tests.helpers.datasets import sentences

ORACLE = "oracle"
TEXTS = [f"great w{number % 14}" for number in range(40)]
"""Fourteen different texts."""


def write_taught(config: RunConfig, rows: np.ndarray, shares: np.ndarray) -> None:
    """Write the targets of a teacher called oracle into a run, float ``[rows, classes]``."""
    write_targets(config, read_manifest(config.data).fingerprint, rows, shares, "0" * 64, "says everything")


def write_corpus(folder: Path, *, labelled: int = 120, unlabelled: int = 60, classes: int = 3) -> pd.DataFrame:
    """``labelled.csv`` and ``unlabelled.csv`` in a folder; returns the rows of both, with the labels of all."""
    texts, labels = sentences(labelled + unlabelled, classes, 0, 12)
    frame = pd.DataFrame({"text": [f"{text} no{row}" for row, text in enumerate(texts)], "label": labels})
    frame["label"] = [f"mood{label}" for label in frame["label"]]
    frame[:labelled].to_csv(folder / "labelled.csv", index=False)
    frame[labelled:][["text"]].to_csv(folder / "unlabelled.csv", index=False)
    return frame


def prepare_corpus(folder: Path, *more: str, **sizes: int) -> pd.DataFrame:
    """The dataset ``data`` of ``write_corpus``; returns its rows, whose numbers are those of the dataset, minus 1."""
    frame = write_corpus(folder, **sizes)
    prepare(folder / "labelled.csv", folder / "data", "--source.unlabelled_path", folder / "unlabelled.csv", *more)
    return frame


def write_encoder(folder: Path, texts: Iterable[str]) -> Path:
    """A folder with a tiny random encoder as transformers saves it, which knows the words of the texts."""
    transformers = pytest.importorskip("transformers", reason="padless[teacher] is not installed")
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertModel(transformers.BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return folder
