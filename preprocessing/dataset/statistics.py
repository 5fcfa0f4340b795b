# SPDX-License-Identifier: Apache-2.0
"""What ``statistics`` of a manifest say of groups, folds and rows without labels, in words.

The job says these lines when it has cut the splits, and ``inspect`` again.
"""

from __future__ import annotations

from typing import Any

from preprocessing.base.split_names import TEST, TRAIN, VALIDATION


def groups_in_words(groups: dict[str, Any]) -> list[str]:
    """Lines for people: the job says them when it has cut the splits, and ``inspect`` again."""
    parts = [f"{groups['groups']:,} groups, the largest of {groups['largest']:,} rows"]
    parts += [f"{groups['rows_without']:,} rows without a group"] if groups["rows_without"] else []
    parts += [f"{groups['followed']:,} rows put with their group"] if groups["followed"] else []
    for split, cut in groups["cut"].items():
        parts.append(f"{split} {cut['rows']:,} rows ({cut['share']:.2%}, wanted {cut['wanted']:.2%})")
    lines = [f"by {groups['column']}: {'; '.join(parts)}"]
    for entry in groups["shared"]:
        rows = " and ".join(f"{rows:,} rows in {split}" for split, rows in entry["rows"].items())
        lines.append(f"the source's own splits share {entry['groups']:,} groups of {groups['column']}: {rows}")
    return lines


def folds_in_words(found: dict[str, Any]) -> str:
    """A line for people on ``statistics.folds`` of a manifest."""
    rows = found["rows"]
    between = f"{min(rows):,} to {max(rows):,}" if min(rows) < max(rows) else f"{rows[0]:,}"
    return f"{len(rows)} folds of {between} rows of training and validation, groups and equal texts whole"


def unlabelled_in_words(found: dict[str, Any], kept: int) -> str:
    """A line for people: the job says it, and ``inspect`` again. ``kept`` are the rows of the split."""
    shared = found["shared"]
    parts = [f"{kept:,} of {found['rows']:,} rows without labels are kept"]
    reasons = (
        (shared[VALIDATION] + shared[TEST], "have texts that validation or test holds (quality.leaks)"),
        (found.get("groups_measured", 0), "are of groups of validation or test (quality.leaks)"),
        (shared[TRAIN], "have texts that train holds too, which does no harm"),
        (found["duplicates"], "repeat another of them (quality.duplicates)"),
        (found["empty"], "are empty (quality.empty)"),
    )
    return "; ".join([*parts, *(f"{count:,} {what}" for count, what in reasons if count)])
