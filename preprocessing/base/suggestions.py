# SPDX-License-Identifier: Apache-2.0
"""The end of a sentence about an unknown name: what it is called here, or the nearest name.

Names of other tools are not accepted as aliases, since they seldom mean the same: their ``--batch_size`` counts rows of
one process, ``--global_batch`` rows over all processes.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path

ELSEWHERE = Path(__file__).with_name("elsewhere.csv")
"""Our key, its names in scikit-learn, Keras, Hugging Face, fastText, spaCy and PyTorch Lightning, and how it differs;
without a key, what decides instead. If several keys have a name, the first that the command takes is suggested."""
PREPARE_GROUPS = ("source.", "splits.", "text.", "vocabulary.", "quality.", "executor.")
"""Beginnings of the dotted keys of ``padless prepare``; the others are of ``padless train``."""
LEAST_LIKENESS = 0.75
"""Of ``difflib``: a word of four letters may have one other letter, one of eight two."""


def suggestion(name: str, keys: Collection[str], dashes: str, otherwise: str = "--help all lists them") -> str:
    """The end of a sentence about an unknown name: ``did you mean --optim.lr?``, ``it is --global_batch here (…)``.

    It names one of ``keys``. The name may be misspelt, in our words or in others'.
    """
    hint_by_name: dict[str, str] = {}
    with open(ELSEWHERE, encoding="utf-8", newline="") as file:
        for row in reversed(list(csv.DictReader(file))):
            key, names = row["key"], row["names"].split()
            hint = f"it is {dashes}{key} here {row['remark']}".rstrip() if key else row["remark"]
            if key in keys or not key:
                hint_by_name |= dict.fromkeys(names, hint)
            elif dashes == "--" and "." in key:
                command = "prepare" if key.startswith(PREPARE_GROUPS) else "train"
                hint = f"--{key} is a key of padless {command}"
                hint_by_name = dict.fromkeys([*names, last_part(key)], hint) | hint_by_name
    key_hints = {last_part(key): f"did you mean {dashes}{key}?" for key in reversed([*keys])}
    name, hint_by_name = last_part(name).replace("-", "_").lower(), hint_by_name | key_hints
    for names in ([name], key_hints, hint_by_name):
        close_names = get_close_matches(name, names, 1, LEAST_LIKENESS)
        if close_names and close_names[0] in hint_by_name:
            return hint_by_name[close_names[0]]
    return otherwise


def path_suggestion(path: str | Path) -> str:
    """``; did you mean data/mine?``, with the nearest name in the folder of a path that does not exist, or nothing."""
    path, file_by_name = Path(path), dict[str, str]()
    for file in [] if path.exists() else path.parent.glob("*"):
        file_by_name |= {file.stem.lower(): file.name, file.name.lower(): file.name}
    name = get_close_matches(path.name.lower(), file_by_name, 1, LEAST_LIKENESS)
    return f"; did you mean {path.with_name(file_by_name[name[0]])}?" if name else ""


def last_part(key: str) -> str:
    """``lr`` of ``optim.lr``."""
    return key.rpartition(".")[2]
