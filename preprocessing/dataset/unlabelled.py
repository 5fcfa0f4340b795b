# SPDX-License-Identifier: Apache-2.0
"""What ``statistics.unlabelled`` of a manifest says of rows without labels, in words."""

from __future__ import annotations

from typing import Any

from preprocessing.base.split_names import TEST, TRAIN, VALIDATION


def in_words(found: dict[str, Any], kept: int) -> str:
    """A line for people: the job says it, and ``inspect`` again. ``kept`` are the rows of the split."""
    shared = found["shared"]
    parts = [f"{kept:,} of {found['rows']:,} rows without labels are kept"]
    told = (
        (shared[VALIDATION] + shared[TEST], "have texts that validation or test holds (quality.leaks)"),
        (found.get("groups_measured", 0), "are of groups of validation or test (quality.leaks)"),
        (shared[TRAIN], "have texts that train holds too, which does no harm"),
        (found["duplicates"], "repeat another of them (quality.duplicates)"),
        (found["empty"], "are empty (quality.empty)"),
    )
    return "; ".join([*parts, *(f"{count:,} {what}" for count, what in told if count)])
