# SPDX-License-Identifier: Apache-2.0
"""The splits: their names in configurations, paths and manifests, and their numbers in arrays of rows."""

from __future__ import annotations

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
"""The splits of labelled rows. A split's number is its place here."""
UNLABELLED = "unlabelled"
"""The split of rows whose label nobody knows."""
ALL_SPLITS = (*SPLITS, UNLABELLED)
TRAIN_NUMBER, VALIDATION_NUMBER, TEST_NUMBER, UNLABELLED_NUMBER = range(len(ALL_SPLITS))
NO_SPLIT = -1
"""The number of a row for which the source names no split."""
NO_LABEL = -1
"""What stands in the label column of a row without one."""
SPELLINGS = {
    TRAIN: TRAIN,
    "training": TRAIN,
    VALIDATION: VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    TEST: TEST,
}
"""What a folder or a column of the source may call a split, in lower case -> the split."""


UNLABELLED_SPELLINGS: dict[str | None, str] = dict.fromkeys(
    (UNLABELLED, "unlabeled", "unsupervised", "unsup"), UNLABELLED
)
"""The same for rows without labels, where ``source.missing_label`` says that there may be some."""


def split_number(name: str | None) -> int:
    """The number of a split's name, ``NO_SPLIT`` for None."""
    return NO_SPLIT if name is None else ALL_SPLITS.index(name)
