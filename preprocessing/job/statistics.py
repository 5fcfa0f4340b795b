# SPDX-License-Identifier: Apache-2.0
"""A manifest's statistics and provenance, and the lines that print them.

They hold no times and no machine names, so equal runs write equal bytes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessing.base.installed import VERSION
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import counted, public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.sources import Plan
from preprocessing.dataset.index import Totals
from preprocessing.dataset.shards import Manifest
from preprocessing.job.decisions import summed
from preprocessing.job.parts import Summary
from preprocessing.labels import alike
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary

REASONS = {
    "filtered": "with another value than source.where says",
    "neutral": "with a label of source.neutral",
    "without_label": "without a label (source.missing_label)",
    "empty": "whose text has no token left (quality.empty)",
    "contradictions": "with contradictory labels: an equal text has another one (quality.contradictions)",
    "leaks": "with a text, or of a group, that another split holds too (quality.leaks)",
    "near_duplicates": "nearly repeating a row of validation or test (quality.near_duplicates, near_duplicates.csv)",
    "duplicates": "repeating an earlier text of their split (quality.duplicates)",
}
"""Why rows are left out, or are suspect although they are kept."""
BASE = "vocabulary_base"
"""Key of ``vocabulary.base`` in a manifest's provenance."""
NAMED = 12
"""Most classes that one line names."""


def statistics(
    config: PreprocessConfig,
    found: dict[str, Any],
    summaries: list[Summary],
    splits: dict[str, list[Totals]],
    lengths: dict[str, Counter[int]],
    unknown: dict[str, int],
    before: dict[str, Any],
) -> dict[str, Any]:
    """The manifest's statistics: what was read, left out and ``found`` (``pipeline.decided``), and each split with its
    ``lengths`` (rows by tokens before truncation) and ``unknown`` tokens; added to those ``before``.
    """
    left_out = {name: sum(getattr(summary, name) for summary in summaries) for name in ("neutral", "filtered")}
    if config.source.missing_label == "drop":
        left_out["without_label"] = sum(summary.without_label for summary in summaries)
    dropped, most = found.pop("dropped"), config.text.max_tokens
    new = {
        "rows_read": sum(summary.rows for summary in summaries) + sum(left_out.values()),
        "rows_kept": sum(its.total() for its in lengths.values()),
        "dropped": {**left_out, **dropped},
        **found,
        "splits": {
            name: {
                "tokens": sum(length * rows for length, rows in its.items()),
                "truncated": sum(rows for length, rows in its.items() if length > most),
                "empty": its[0],
                "unknown": unknown[name],
            }
            for name, its in lengths.items()
            if its
        },
    }
    facts = summed([before, new])
    for name, of in facts["splits"].items():
        kept = sum(part.tokens for part in splits[name]) - of["empty"]
        of["unknown_rate"] = round(of["unknown"] / max(kept, 1), 6)
    return facts


def provenance(config: PreprocessConfig, plans: list[Plan]) -> dict[str, Any]:
    """Sources with their sizes and fingerprints, the configuration, and the versions of packages."""
    entries = []
    for plan in plans:
        entry: dict[str, Any] = {"name": plan.file.name, "format": plan.file.format, "split": plan.file.split}
        if plan.file.form and (read_as := plan.file.form.recorded):
            entry["read_as"] = read_as
        if plan.file.is_unlabelled and plan.file.source.text_column != config.source.text_column:
            entry["text_column"] = plan.file.source.text_column
        entry |= {"bytes": plan.bytes, "rows": plan.rows, "first_row": plan.before + 1, "fingerprint": plan.fingerprint}
        entries.append(entry)
    versions = {"padless": VERSION, "numpy": np.__version__, "pyarrow": pa.__version__}
    return {"sources": entries, "config": public_values(config.deciding()), "versions": versions}


def lines_on_classes(names: list[str], were_found: bool, splits: np.ndarray) -> list[str]:
    """Lines on the classes, on those that look alike, and on those too small for a split; ``splits``: rows, int64
    ``[splits, labels]``.
    """
    counts = np.sum(splits, axis=0).tolist()
    lines = [f"{len(names):,} classes: {some([f'{name} {n:,}' for name, n in zip(names, counts, strict=True)])}"]
    for same in alike(names) if were_found else []:
        spelt, low = " and ".join(map(repr, same)), same[0].strip().casefold()
        joins = f"a pair for each class joins them, as in --source.labels '{low}:{low},…'"
        lines.append(f"{spelt} differ only by case or spaces and stay apart; {joins}")
    lacking = np.any([its == 0 for its in splits if its.any()], axis=0)
    few = [repr(names[number]) for number in np.flatnonzero(lacking)]
    lines += [f"too few rows for every split: {some(few)}"] if few else []
    return [f"labels: {line}" for line in lines]


def lines_on_tokens(vocabulary: Vocabulary, spec: TextSpec) -> list[str]:
    """A line on what a token is, and perhaps one on rules of another language."""
    lines = [f"tokens: {spec.in_words()}"]
    asked = {"text.stop_words": spec.stop_words in ("nltk", "stop-words"), "text.lemmatizer": spec.lemmatizer != "none"}
    if spec.language == "en" and any(asked.values()):
        tokens, counts = vocabulary.tokens.to_pylist()[len(RESERVED) :], vocabulary.counts[len(RESERVED) :]
        foreign = [token[0].isalpha() and "LATIN" not in unicodedata.name(token[0], "") for token in tokens]
        if 2 * counts[np.array(foreign, bool)].sum() > counts.sum():
            keys = " and ".join(key for key, is_asked in asked.items() if is_asked)
            lines.append(f"{keys}: text.language is en, but most tokens are not in Latin letters; set text.language")
    return lines


def some(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def lines_on_rows(manifest: Manifest) -> list[str]:
    """A line for each reason why rows are left out, suspect or shortened."""
    found = manifest.statistics
    kept = {name: found[name] + found.get(UNLABELLED, {}).get(name, 0) for name in ("empty", "contradictions", "leaks")}
    lines = []
    for name, what in REASONS.items():
        verb, count = ("left out", found["dropped"][name]) if name in found["dropped"] else ("kept", kept.get(name, 0))
        if count and (name != "filtered" or manifest.provenance["config"]["source"]["where"]):
            lines.append(f"{verb}: {counted(count, 'row')} {what}")  # the embedded corpus is a part of its file
    if cut := sum(split["truncated"] for split in found["splits"].values()):
        most = manifest.text["spec"]["max_tokens"]
        lines.append(f"shortened: {counted(cut, 'row')} of more than {most:,} tokens (text.max_tokens)")
    return lines


def rows_in_words(manifest: Manifest) -> str:
    """How many rows were read, of which files."""
    files = manifest.provenance["sources"]
    where = files[0]["name"] if len(files) == 1 else counted(len(files), "file")
    number, there = manifest.statistics["rows_read"], sum(file["rows"] for file in files)
    return f"{f'{number:,} of ' if number < there else ''}{counted(there, 'row')} of {where}"
