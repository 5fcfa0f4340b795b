# SPDX-License-Identifier: Apache-2.0
"""What ``statistics.groups`` of a manifest says, in words: how groups were cut, and which the source's splits share."""

from __future__ import annotations

from typing import Any


def in_words(groups: dict[str, Any]) -> list[str]:
    """Lines for people: the job says them when it has cut the splits, and ``inspect`` again."""
    largest = groups["largest"]
    parts = [f"{groups['groups']:,} groups, the largest {largest['name']!r} of {largest['rows']:,} rows"]
    parts += [f"{groups['joined']:,} joined to another by equal texts"] if groups["joined"] else []
    parts += [f"{groups['rows_without']:,} rows without a group"] if groups["rows_without"] else []
    parts += [f"{groups['followed']:,} rows put with their group"] if groups["followed"] else []
    for split, cut in groups["cut"].items():
        parts.append(f"{split} {cut['rows']:,} rows ({cut['share']:.2%}, wanted {cut['wanted']:.2%})")
    if groups["cut"]:
        off = groups["off"]
        far = f"farthest from its share is label {off['label']!r} in {off['split']}, by {off['rows']:+,} rows"
        parts.append(far if off["rows"] else "every label has its share to the row")
    lines = [f"by {groups['column']}: {'; '.join(parts)}"]
    if len(groups["named_by_source"]) > 1 and not groups["shared"]:
        lines.append(f"the source's own {' and '.join(groups['named_by_source'])} share no group of {groups['column']}")
    return lines + [shared_in_words(entry, groups["column"]) for entry in groups["shared"]]


def shared_in_words(entry: dict[str, Any], column: str) -> str:
    """A sentence on groups that two splits of the source share."""
    one, other = entry["rows"]
    rows = " and ".join(f"{rows:,} rows in {split}" for split, rows in entry["rows"].items())
    some = ", ".join(map(repr, entry["names"])) + (", …" if entry["groups"] > len(entry["names"]) else "")
    return f"the source's own {one} and {other} share {entry['groups']:,} groups of {column} ({some}): {rows}"
