# SPDX-License-Identifier: Apache-2.0
"""Suspect rows: empty, repeated, contradictory, shared between splits; counted, and kept, dropped or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.printable import counted
from preprocessing.base.split_names import ALL_SPLITS, NO_SPLIT, SPLITS, TRAIN, TRAIN_NUMBER, UNLABELLED
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.dataset.shards import Manifest, ShardInfo
from preprocessing.job.rows import Rows
from preprocessing.job.splits import FEWEST_TO_CUT, Groups
from preprocessing.job.splitting import NameOf, split_rows

DROPPED = -1
LEFT_OUT = {
    "filtered": "with another value than source.where says",
    "neutral": "with a label of source.neutral",
    "without_label": "without a label (source.missing_label)",
}
SUSPECT = {
    "empty": "of whose text no token is left",
    "contradictions": "with contradictory labels: an equal text has another one",
    "leaks": "with a text, or of a group, that another split holds too",
    "duplicates": "repeating an earlier text of their split",
}
"""What is said of rows that are left out, and of those that a policy leaves out or keeps."""
Where = Callable[[int], str]
"""A row's number in the source -> ``FILE: row N``."""


@dataclass
class Sieve:
    """Which rows are still there, and how many each policy has dropped."""

    row: np.ndarray
    where: Where
    alive: np.ndarray
    """bool per row."""
    dropped: dict[str, int] = field(default_factory=dict)

    def apply(self, name: str, policy: str, found: np.ndarray, what: str) -> None:
        """Do what the policy ``quality.<name>`` says with the rows ``found`` that are still there.

        Raises ``DataError`` where it says ``error``, naming the first of them; ``what`` is wrong with it.
        """
        found = found & self.alive
        if policy == "error" and found.any():
            first = int(self.row[found].min())
            rest = int(found.sum()) - 1
            others = f" (and {rest} more)" if rest else ""
            raise DataError(f"{self.where(first)}: {what}{others}; mend the row, or set quality.{name} to keep or drop")
        if policy == "drop":
            self.alive[found] = False
            self.dropped[name] = self.dropped.get(name, 0) + int(found.sum())


def decide(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where, name_of: NameOf = hex
) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per labelled row: its split, or ``DROPPED``; and what was found, for the manifest.

    Raises ``DataError`` where a policy says ``error``, naming the first row it applies to.
    """
    named = rows.named.astype(np.int8)
    empty = rows.num_tokens == 0
    sieve = Sieve(rows.row, where, np.ones(len(named), bool))
    if empty.all():
        raise DataError(
            f"{where(int(rows.row.min()))}: no token is left of this text, nor of any other; check text.stop_words"
        )
    report: dict[str, Any] = {"empty": int(empty.sum()), "missing_text": int(rows.missing.astype(bool).sum())}
    sieve.apply("empty", quality.empty, empty, "no token is left of its text")
    groups = Groups.of(rows.text_hash, rows.row)
    unequal = groups.to_rows(groups.minimum(rows.label) != groups.maximum(rows.label)) & ~empty
    report["contradictions"] = int(unequal.sum())
    sieve.apply("contradictions", quality.contradictions, unequal, "an equal text has another label")
    any_named = (named >= 0).any()
    nearest = np.where(named < 0, TRAIN_NUMBER if any_named else -1, named)
    leaking = (nearest < groups.to_rows(groups.maximum(nearest))) & ~empty
    report["leaks"] = int(leaking.sum())
    sieve.apply("leaks", quality.leaks, leaking, "another split that the source names holds an equal text")
    decision, of_groups = split_rows(rows, named, sieve.alive, splits, seed, name_of)
    compared = sieve.alive & ~empty
    report["duplicates"] = duplicates(rows, decision, compared)
    again = repeated(rows, decision, compared)
    sieve.apply("duplicates", quality.duplicates, again, "its split holds an equal text before it")
    decision[~sieve.alive] = DROPPED
    report["dropped"] = sieve.dropped
    if of_groups is not None:
        report["groups"] = of_groups
    return decision, report


def repeated(rows: Rows, decision: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """bool per row: a lower row of the same split has the same tokens."""
    result = np.zeros(len(decision), bool)
    for split in range(len(SPLITS)):
        inside = np.flatnonzero((decision == split) & compared)
        result[inside] = Groups.of(rows.text_hash[inside], rows.row[inside]).repeats()
    return result


def duplicates(rows: Rows, decision: np.ndarray, compared: np.ndarray) -> dict[str, int]:
    """Rows that repeat an earlier one: letter by letter, after the text pipeline; and rows in groups across splits."""
    full = np.flatnonzero(compared)
    text, row = rows.text_hash[full], rows.row[full]
    groups = Groups.of(text, row)
    several = full[groups.to_rows(groups.sizes > 1)]
    pairs = np.stack([rows.text_hash[several], rows.exact_hash[several]])
    exact = len(several) - np.unique(pairs, axis=1).shape[1]
    across = groups.minimum(decision[full]) != groups.maximum(decision[full])
    return {
        "exact": exact,
        "normalised": int(groups.repeats().sum()),
        "across_splits": int(groups.sizes[across].sum()),
    }


def check_splits(
    rows: Rows, decision: np.ndarray, dropped: dict[str, int], names: list[str], wanted: list[int], mend: str
) -> None:
    """Refuse a split that nothing can be learnt from or measured on. Raises ``DataError``.

    ``dropped`` are the rows that each policy has dropped; ``mend`` says what to do about a class without a row to learn
    from.
    """
    for split in wanted:
        inside = rows.label[decision == split]
        present = np.unique(inside)
        if not len(present):
            why = why_empty(rows, decision, dropped, split)
            raise DataError(f"split {SPLITS[split]}: no row is left for it: {why}")
        if len(present) == 1:
            only = f"all {len(inside)} rows have the label {names[int(present[0])]!r}"
            raise DataError(
                f"split {SPLITS[split]}: {only}; a classifier needs two classes: check the source and its labels"
            )
        absent = [name for number, name in enumerate(names) if number not in present]
        if split == TRAIN_NUMBER and absent:
            raise DataError(f"split {TRAIN}: no row has the label {absent[0]!r}; add some, or {mend}")


def why_empty(rows: Rows, decision: np.ndarray, dropped: dict[str, int], split: int) -> str:
    """Why a split has no row, and what to do about it."""
    name, is_named = SPLITS[split], split != TRAIN_NUMBER and bool((rows.named == split).any())
    own = rows.named == split if is_named else np.isin(rows.named, [TRAIN_NUMBER, NO_SPLIT])
    kept = own & (decision >= 0)
    if not own.any():
        return f"the source names another one for each of the {len(decision):,} rows; name {name} for some of them"
    if not kept.any():
        policies = " and ".join(f"quality.{policy}" for policy, count in dropped.items() if count)
        whose = "that the source names for it" if is_named else "that it could have"
        return f"{policies} left out all {int(own.sum()):,} rows {whose}; mend the rows, or set the policy to keep"
    labels = np.unique(rows.label[kept], return_counts=True)[1]
    texts = len(np.unique(rows.text_hash[kept]))
    if split != TRAIN_NUMBER and labels.max() < FEWEST_TO_CUT:
        what = f"it is cut from labels of {FEWEST_TO_CUT} rows or more, and each of the {len(labels):,} has"
        return f"{what} {labels.max()} at most; check source.label_column, or give more rows of each label"
    if split != TRAIN_NUMBER and texts < kept.sum():
        what = f"{int(kept.sum()):,} rows hold {texts:,} different texts, and equal texts stay in one split"
        return f"{what}; ask for a larger share in splits.{name}, or take repeated rows out of the source"
    return f"{int(kept.sum()):,} rows are too few for all splits; give more rows, or another splits.{name}"


def statistics(rows: Rows, decision: np.ndarray, names: list[str], max_tokens: int) -> dict[str, Any]:
    """Per split: rows, label balance, lengths before truncation, truncated and empty texts."""
    result: dict[str, Any] = {}
    for number, split in enumerate(ALL_SPLITS):
        inside = decision == number
        if not inside.any():
            continue
        lengths = rows.num_tokens[inside]
        classes = names if split != UNLABELLED else []
        counts = np.bincount(rows.label[inside] if classes else [], minlength=len(classes))
        points = (0, 5, 25, 50, 75, 95, 99, 100)
        values = np.percentile(lengths, points, method="inverted_cdf")
        edges = histogram_edges(max_tokens)
        result[split] = {
            "rows": int(inside.sum()),
            "labels": {name: int(count) for name, count in zip(classes, counts, strict=True)},
            "tokens": int(lengths.sum()),
            "length_percentiles": {str(point): int(value) for point, value in zip(points, values, strict=True)},
            "length_histogram": {
                "edges": edges,
                "rows": np.histogram(np.minimum(lengths, edges[-1]), edges)[0].tolist(),
            },
            "truncated": int((lengths > max_tokens).sum()),
            "empty": int((lengths == 0).sum()),
        }
    return result


def dataset_statistics(
    rows: Rows,
    decision: np.ndarray,
    report: dict[str, Any],
    left_out: dict[str, int],
    infos: dict[str, list[ShardInfo]],
    unknown: dict[str, int],
    names: list[str],
    max_tokens: int,
) -> dict[str, Any]:
    """The manifest's statistics: what was read, left out and found, and each split with its padding and unknowns."""
    splits = statistics(rows, decision, names, max_tokens)
    for name, entry in splits.items():
        tokens = sum(info.tokens for info in infos[name])
        cells = sum(info.rows * info.width for info in infos[name])
        entry["tokens_kept"] = tokens - entry["empty"]
        entry["padding_on_disk"] = round(1 - tokens / cells, 6)
        entry["unknown"] = unknown[name]
        entry["unknown_rate"] = round(unknown[name] / max(entry["tokens_kept"], 1), 6)
    found = {key: value for key, value in report.items() if key != "dropped"}
    return {
        "rows_read": len(rows.row) + sum(left_out.values()),
        "rows_kept": int((decision >= 0).sum()),
        "dropped": {**left_out, **report["dropped"]},
        **found,
        "splits": splits,
    }


def in_words(manifest: Manifest) -> list[str]:
    """A line for each reason for which rows are left out, or are not in the dataset as the source has them."""
    found, splits = manifest.statistics, manifest.statistics.get("splits", {}).values()
    dropped, of_unlabelled = found.get("dropped", {}), found.get(UNLABELLED, {})
    shared = of_unlabelled.get("shared", {})

    def both(name: str) -> int:
        return found.get(name, 0) + of_unlabelled.get(name, 0)

    missing = both("missing_text")
    kept = {
        "empty": both("empty"),
        "contradictions": found.get("contradictions", 0),
        "leaks": found.get("leaks", 0) + sum(count for name, count in shared.items() if name != TRAIN),
    }
    told = [(f"left out: {{}} {what}", dropped.get(name, 0)) for name, what in LEFT_OUT.items()]
    if not manifest.provenance["config"]["source"]["where"]:
        del told[0]  # of the embedded corpus, which is a part of its file
    for name, what in SUSPECT.items():
        verb, count = ("left out", dropped[name]) if name in dropped else ("kept", kept.get(name, 0))
        if name == "empty":
            told.append((f"{verb}: {{}} without a text (quality.empty)", missing))
            count -= missing
        told.append((f"{verb}: {{}} {what} (quality.{name})", count))
    most = manifest.text["spec"].get("max_tokens")
    cut = sum(split.get("truncated", 0) for split in splits)
    told.append((f"shortened: {{}} of more than {most:,} tokens (text.max_tokens)", cut))
    return [line.format(counted(count, "row")) for line, count in told if count]


def histogram_edges(max_tokens: int) -> list[int]:
    """Edges of 64 equal bins up to twice the longest sequence kept; the last bin holds all that is longer."""
    step = max(1, -(-2 * max_tokens // 64))
    return list(range(0, step * 65, step))
