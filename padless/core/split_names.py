# SPDX-License-Identifier: Apache-2.0
"""The splits: their names in configurations, paths and manifests, and their numbers in arrays of rows."""

from __future__ import annotations

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
"""The splits of labelled rows. A split's number is its index here."""
UNLABELLED = "unlabelled"
"""The split of rows without labels."""
ALL_SPLITS = (*SPLITS, UNLABELLED)
TRAIN_NUMBER, VALIDATION_NUMBER, TEST_NUMBER, UNLABELLED_NUMBER = range(len(ALL_SPLITS))
NO_SPLIT = -1
"""The number of a row for which the source names no split."""
NO_LABEL = -1
"""The value in the label column of a row without a label."""
SPELLINGS = {
    TRAIN: TRAIN,
    "training": TRAIN,
    VALIDATION: VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    TEST: TEST,
}
"""Name of a split in a folder or column of the source, in lower case -> the split."""


UNLABELLED_SPELLINGS: dict[str | None, str] = dict.fromkeys(
    (UNLABELLED, "unlabeled", "unsupervised", "unsup"), UNLABELLED
)
"""The same for rows without labels, if ``source.missing_label`` allows them."""


def split_number(name: str | None) -> int:
    """The number of a split's name, ``NO_SPLIT`` for None."""
    return NO_SPLIT if name is None else ALL_SPLITS.index(name)
