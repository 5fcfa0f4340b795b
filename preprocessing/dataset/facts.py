# SPDX-License-Identifier: Apache-2.0
"""What ``statistics``, ``provenance`` and ``text`` of a manifest hold, as far as anything reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.base.typed import Between, Count

Share = Annotated[float, Between(0, 1)]
Split = Literal["train", "validation", "test", "unlabelled"]
Counts = dict[str, Count]


class LengthHistogram(TypedDict):
    """Rows by length before truncation."""

    edges: Annotated[list[Count], Between(2, 1_000)]
    rows: Annotated[list[Count], Between(1, 999)]


class SplitStatistics(TypedDict, total=False):
    """Of one split."""

    truncated: Count
    empty: Count
    unknown_rate: Share
    length_histogram: LengthHistogram


class Duplicates(TypedDict):
    """Rows that repeat an earlier one."""

    exact: Count
    normalised: Count
    across_splits: Count


class Largest(TypedDict):
    """The largest group."""

    name: str
    rows: Count


class CutOfGroups(TypedDict):
    """A split that groups were cut into."""

    rows: Count
    share: float
    wanted: float


class OffLabel(TypedDict):
    """The label that is farthest from its share."""

    label: str
    split: str
    rows: int


class SharedGroups(TypedDict):
    """Groups that two splits of the source share."""

    rows: Annotated[Counts, Between(2, 2)]
    names: list[str]
    groups: Count


class GroupsCut(TypedDict, total=False):
    """There where groups were cut."""

    off: OffLabel


class GroupStatistics(GroupsCut):
    """How groups were cut."""

    column: str
    groups: Count
    largest: Largest
    joined: Count
    rows_without: Count
    followed: Count
    cut: dict[str, CutOfGroups]
    named_by_source: list[str]
    shared: list[SharedGroups]


class FoldStatistics(TypedDict):
    """Rows of each fold."""

    rows: Annotated[list[Count], Between(1)]


class UnlabelledStatistics(TypedDict):
    """Rows without labels."""

    rows: Count
    shared: Counts
    duplicates: Count
    empty: Count


class VocabularyStatistics(TypedDict, total=False):
    """What the vocabulary was counted on."""

    tokens_counted: Count


class Statistics(TypedDict, total=False):
    """``statistics``."""

    rows_read: Count
    rows_kept: Count
    dropped: Counts
    contradictions: Count
    duplicates: Duplicates
    groups: GroupStatistics
    folds: FoldStatistics
    unlabelled: UnlabelledStatistics
    vocabulary: VocabularyStatistics
    splits: dict[Split, SplitStatistics]


class SourceFile(TypedDict):
    """A file of the corpus."""

    name: str
    rows: Count
    first_row: Count
    fingerprint: dict[str, Any]


class Configuration(TypedDict, total=False):
    """Of the preprocessing."""

    source: dict[str, Any]
    splits: dict[str, Any]


class Provenance(TypedDict, total=False):
    """``provenance``."""

    sources: list[SourceFile]
    config: Configuration
    versions: dict[str, str]


class Text(TypedDict):
    """``text``: a resolved text pipeline."""

    spec: dict[str, Any]
    stop_words: list[str]
    resources: dict[str, str]


def contradiction(statistics: dict[str, Any]) -> str | None:
    """What is wrong with numbers that are of the right types: a clause, or None."""
    for name, split in statistics.get("splits", {}).items():
        if "length_histogram" in split:
            histogram = split["length_histogram"]
            edges = histogram["edges"]
            if len(edges) != len(histogram["rows"]) + 1 or edges != sorted(set(edges)):
                return f"statistics.splits.{name}.length_histogram has no ascending edges around its rows"
    found = statistics.get("groups")
    if found is not None and found["cut"] and "off" not in found:
        return "statistics.groups.off is missing where groups were cut"
    if "unlabelled" in statistics and not {TRAIN, VALIDATION, TEST} <= statistics["unlabelled"]["shared"].keys():
        return "statistics.unlabelled.shared does not name each split of labelled rows"
    return None
