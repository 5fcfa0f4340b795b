# SPDX-License-Identifier: Apache-2.0
"""What a manifest says of the rows and of what they were made of and with, and the same in words for people.

No times and no machine: equal runs write equal bytes.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from preprocessing.base.split_names import ALL_SPLITS, NO_LABEL, SPLITS, TRAIN, UNLABELLED
from preprocessing.base.terminal import counted, public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.sources import Part, Plan
from preprocessing.dataset.shards import Manifest, ShardInfo
from preprocessing.job.parts import Summary
from preprocessing.job.rows import Classes, Rows
from preprocessing.labels import alike

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
BASE = "vocabulary_base"
"""What a manifest's provenance calls the facts of ``vocabulary.base``."""
MADE_WITH = ("padless", "numpy", "pyarrow")
PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)
BINS = 64
NAMED = 12
"""Classes that a line names before it says how many more there are."""


def statistics(
    rows: Rows,
    decision: np.ndarray,
    report: dict[str, Any],
    summaries: list[Summary],
    infos: dict[str, list[ShardInfo]],
    unknown: dict[str, int],
    names: list[str],
    config: PreprocessConfig,
) -> dict[str, Any]:
    """The manifest's statistics: what was read, left out and found (``report``), and each split with its unknowns."""
    left_out = {name: sum(getattr(summary, name) for summary in summaries) for name in ("neutral", "filtered")}
    if config.source.missing_label == "drop":
        left_out["without_label"] = sum(summary.without_label for summary in summaries)
    dropped = report.pop("dropped")
    splits = {
        name: of_split(rows.chosen(decision == number), infos[name], unknown[name], names, config.text.max_tokens)
        for number, name in enumerate(ALL_SPLITS)
        if name in infos
    }
    return {
        "rows_read": len(rows.row) + sum(left_out.values()),
        "rows_kept": int((decision >= 0).sum()),
        "dropped": {**left_out, **dropped},
        **report,
        "splits": splits,
    }


def of_split(rows: Rows, infos: list[ShardInfo], unknown: int, names: list[str], max_tokens: int) -> dict[str, Any]:
    """Rows, labels, lengths before truncation, truncated and empty texts, padding and unknown tokens of one split."""
    lengths = rows.num_tokens
    classes = [] if rows.label[0] == NO_LABEL else names
    counts = np.bincount(rows.label if classes else [], minlength=len(classes)).tolist()
    points = np.percentile(lengths, PERCENTILES, method="inverted_cdf").astype(int).tolist()
    step = max(1, -(-2 * max_tokens // BINS))
    edges = list(range(0, step * (BINS + 1), step))  # up to twice the longest row; the last bin holds all above
    empty, tokens = int((lengths == 0).sum()), sum(info.tokens for info in infos)
    return {
        "rows": len(lengths),
        "labels": dict(zip(classes, counts, strict=True)),
        "tokens": int(lengths.sum()),
        "length_percentiles": dict(zip(map(str, PERCENTILES), points, strict=True)),
        "length_histogram": {"edges": edges, "rows": np.histogram(np.minimum(lengths, edges[-1]), edges)[0].tolist()},
        "truncated": int((lengths > max_tokens).sum()),
        "empty": empty,
        "tokens_kept": tokens - empty,
        "padding_on_disk": round(1 - tokens / sum(info.rows * info.width for info in infos), 6),
        "unknown": unknown,
        "unknown_rate": round(unknown / max(tokens - empty, 1), 6),
    }


def provenance(
    config: PreprocessConfig, plans: list[Plan], cut: list[Part], summaries: list[Summary]
) -> dict[str, Any]:
    """Sources with their sizes and fingerprints, the configuration, and the versions of what did the work."""
    contents = {plan.file.address: 0 for plan in plans if plan.file.format == "folder"}
    for part, summary in zip(cut, summaries, strict=True):
        if part.file.address in contents:
            contents[part.file.address] += int(summary.content, 16)
    entries, first = [], 1
    for plan in plans:
        entry: dict[str, Any] = {"name": plan.file.name, "format": plan.file.format, "split": plan.file.split}
        if plan.file.form and (read_as := plan.file.form.recorded(plan.file.expected)):
            entry["read_as"] = read_as
        if plan.file.is_unlabelled and plan.file.source.text_column != config.source.text_column:
            entry["text_column"] = plan.file.source.text_column
        entry |= {"bytes": plan.bytes, "rows": plan.rows, "first_row": first, "fingerprint": plan.fingerprint}
        if plan.file.address in contents:
            entry["sum_of_sha256"] = f"{contents[plan.file.address] % (1 << 256):064x}"
        entries.append(entry)
        first += plan.rows
    versions = {name: version_of(name) for name in MADE_WITH}
    return {"sources": entries, "config": public_values(config.deciding()), "versions": versions}


def version_of(distribution: str) -> str:
    """The installed version of a package, or that it runs from a checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


def lines_on_classes(classes: Classes, label: np.ndarray, decision: np.ndarray) -> list[str]:
    """Lines for people: the classes, those that look like one, and those too small for a split."""
    names = classes.names
    splits = [np.bincount(label[decision == number], minlength=len(names)) for number in range(len(SPLITS))]
    counts = np.sum(splits, axis=0).tolist()
    what = f"{len(names):,} classes{' found' if classes.found is not None else ''}"
    lines = [f"{what}: {some([f'{name} {count:,}' for name, count in zip(names, counts, strict=True)])}"]
    for same in alike(names) if classes.found is not None else []:
        spelt = " and ".join(map(repr, same))
        lines.append(f"{spelt} differ only by case or spaces and stay apart; source.labels can join them")
    spellings: dict[int, list[str]] = {}
    for value, number in sorted((classes.found or {}).items()):
        spellings.setdefault(number, []).append(value)
    lines += [
        f"{', '.join(map(repr, same))} are spellings of the class {names[number]}"
        for number, same in sorted(spellings.items())
        if len(same) > 1
    ]
    few = []
    for number, name in enumerate(names):
        missing = [split for split, its in zip(SPLITS, splits, strict=True) if its.any() and not its[number]]
        few += [f"{name!r} ({counted(counts[number], 'row')}, none in {' and '.join(missing)})"] if missing else []
    lines += [f"too few rows for every split: {some(few)}"] if few else []
    return [f"labels: {line}" for line in lines]


def some(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def lines_on_rows(manifest: Manifest) -> list[str]:
    """A line for each reason for which rows are left out, or are not in the dataset as the source has them."""
    found, splits = manifest.statistics, manifest.statistics.get("splits", {}).values()
    dropped, of_unlabelled = found.get("dropped", {}), found.get(UNLABELLED, {})
    missing, empty = (found.get(name, 0) + of_unlabelled.get(name, 0) for name in ("missing_text", "empty"))
    shared = sum(count for name, count in of_unlabelled.get("shared", {}).items() if name != TRAIN)
    kept = {
        "empty": empty,
        "contradictions": found.get("contradictions", 0),
        "leaks": found.get("leaks", 0) + shared,
    }
    lines = [(f"left out: {{}} {what}", dropped.get(name, 0)) for name, what in LEFT_OUT.items()]
    if not manifest.provenance["config"]["source"]["where"]:
        del lines[0]  # of the embedded corpus, which is a part of its file
    for name, what in SUSPECT.items():
        verb, count = ("left out", dropped[name]) if name in dropped else ("kept", kept.get(name, 0))
        if name == "empty":
            lines.append((f"{verb}: {{}} without a text (quality.empty)", missing))
            count -= missing
        lines.append((f"{verb}: {{}} {what} (quality.{name})", count))
    most = manifest.text["spec"].get("max_tokens")
    cut = sum(split.get("truncated", 0) for split in splits)
    lines.append((f"shortened: {{}} of more than {most:,} tokens (text.max_tokens)", cut))
    return [line.format(counted(count, "row")) for line, count in lines if count]


def summary_line(manifest: Manifest) -> str:
    """Rows per split, for people."""
    rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
    return f"{rows} rows" + (f" in {manifest.folds} folds" if manifest.folds else "")
