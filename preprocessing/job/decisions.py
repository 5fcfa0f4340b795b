# SPDX-License-Identifier: Apache-2.0
"""Decides for each row its split and fold, or that it is left out. Suspect rows are counted, kept or dropped.

A row's split is the one that the source names. Otherwise the seed decides, for single texts or for groups of rows.
Unlabelled rows do not influence labelled ones. An unlabelled row leaks if validation or test holds its text or its
group: training would see what is measured. If only training holds its text, it is kept and counted.

Rows are decided by ranges of the hash of their text, since suspect rows are those with equal texts: first each range
counts the rows that the seed is to split, then it gets its share of every split. Memory is that of one range. Groups,
times and folds need all rows in one range.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    NO_LABEL,
    NO_SPLIT,
    SPLITS,
    TEST,
    TRAIN,
    TRAIN_NUMBER,
    UNLABELLED,
    UNLABELLED_NUMBER,
    VALIDATION,
    VALIDATION_NUMBER,
)
from preprocessing.config import PreprocessConfig, QualityConfig, SplitConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job import parts
from preprocessing.job.grouping import assign, assign_folds, assign_groups, components
from preprocessing.job.parts import NO_FOLD, Classes

if TYPE_CHECKING:
    import pandas as pd

DROPPED = -1
RANGE_ROWS = 1 << 19
"""Rows of a range, about."""


@dataclass(frozen=True)
class Decided:
    """Split, label and fold of every row, on disk for the workers."""

    work: Path
    parts: int
    labelled: int
    """Rows with a label, and below those without, also those that are left out."""
    unlabelled: int
    hash: str
    """Over all parts and decisions."""

    def of(self, number: int) -> dict[str, np.ndarray]:
        """The decisions on the rows of one part, in stored order."""
        return parts.load_columns(parts.file_of(self.work / "parts", number, "decided"))


@dataclass(frozen=True)
class Ranges:
    """The rows of all parts, cut into ranges by the hash of their text."""

    work: Path
    config: PreprocessConfig
    classes: Classes
    of: int

    @classmethod
    def over(cls, work: Path, config: PreprocessConfig, classes: Classes, rows: int) -> Ranges:
        """Ranges of about ``RANGE_ROWS`` of all ``rows``, or one where the splits need all rows together."""
        splits = config.splits
        together = splits.group_column or splits.time_column or splits.folds
        return cls(work, config, classes, 1 if together else max(1, -(-rows // RANGE_ROWS)))

    def table(self, number: int) -> tuple[pd.DataFrame, np.ndarray]:
        """The rows of one range in source order, and where those of each part begin in the order of its index.

        ``row``: number in the source. ``label``: class number or ``NO_LABEL``. ``named``: number of the split that the
        source names, or ``NO_SPLIT``. ``missing``: the row has no text. ``text_hash``: of the tokens; ``group``: of the
        group, or ``NO_GROUP``; and ``Piece.times`` if there are some. ``fold`` is ``NO_FOLD`` until it is decided;
        ``split`` is added then.
        """
        import pandas as pd

        pieces = []
        for part, own in enumerate(self.classes.numbers):
            facts = parts.within(parts.file_of(self.work / "parts", part, "facts"), "text_hash", number, self.of)
            piece = facts.drop_columns(["place"]).to_pandas()
            piece["label"] = np.append(own, np.int32(NO_LABEL))[piece["label"]]  # -1, the place of the last
            pieces.append(piece)
        rows, starts = pd.concat(pieces, ignore_index=True), np.cumsum([0, *map(len, pieces)])
        return rows.sort_values("row").assign(fold=np.int16(NO_FOLD)), starts

    def survey(self, number: int) -> dict[str, Any]:
        """What is found among the labelled rows of a range before they are split.

        ``pool``: how many are to be split, all and those whose text occurs once, by the label of a text's first row.
        """
        rows, _ = self.table(number)
        rows = rows[rows["named"] != UNLABELLED_NUMBER]
        sieve = suspects(rows, self.config.quality)
        pool = rows[sieve.alive & (rows["named"] <= TRAIN_NUMBER)]
        label, once = pool.groupby("text_hash")["label"].transform("first"), ~pool["text_hash"].duplicated(keep=False)
        return {
            "named": np.bincount(rows["named"] - NO_SPLIT, minlength=1 + len(SPLITS)),
            "pool": [[np.bincount(its, minlength=len(self.classes.names)) for its in (label, label[once])]],
            "empty": sieve.found["empty"],
            "texts": rows["text_hash"].nunique(),
        }

    def settle(self, cut: dict[str, float], task: tuple[int, np.ndarray]) -> dict[str, Any]:
        """Decide and store the rows of a range, ``task[0]``; ``task[1]`` is its ``apportioned`` share of the splits."""
        rows, starts = self.table(task[0])
        split, report = decide(rows, self.config, cut, task[1])
        rows = rows.assign(split=split)
        labels = len(self.classes.names)
        if self.config.splits.folds:
            rows["fold"], report["folds"] = fold_rows(rows, self.config.splits.folds, self.config.seed, labels)
        stored = rows[["split", "label", "fold"]].sort_index()
        structs = pa.RecordBatch.from_pandas(stored, preserve_index=False).to_struct_array()
        arrays.write_batch(self.path(task[0]), {"rows": pa.LargeListArray.from_arrays(starts, structs)})
        counts = [np.bincount(rows["label"][split == place], minlength=labels) for place in range(len(SPLITS))]
        return {"found": report, "labels": np.stack(counts)}

    def gather(self, number: int) -> str:
        """Store the decisions on the rows of a part, from all ranges, in the order of ``parts.load``; their sha256."""
        facts, path = (parts.file_of(self.work / "parts", number, name) for name in ("facts", "decided"))
        pieces = [parts.read_batch(self.path(one))["rows"][number].values for one in range(self.of)]
        order = pa.array(np.argsort(parts.read_batch(facts)["place"].to_numpy()))
        arrays.write_batch(path, pa.RecordBatch.from_struct_array(pa.concat_arrays(pieces).take(order)))
        return atomic.sha256_file(path)

    def path(self, number: int) -> Path:
        """The file with the decisions on a range: for each part a list of them, in the order of its ``facts``."""
        return self.work / "decided" / f"{number:06d}.arrow"


def summed(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Reports of ranges as one: numbers and arrays are added, lists appended."""

    def added(one: Any, other: Any) -> Any:
        if isinstance(one, dict):
            return one | {key: added(one[key], value) if key in one else value for key, value in other.items()}
        return one + other

    return reduce(added, reports)


class Sieve:
    """Applies the ``quality`` policies to rows; knows which are left and how many each policy dropped."""

    def __init__(self, rows: pd.DataFrame, quality: QualityConfig) -> None:
        """Apply the policy for empty texts."""
        self.rows, self.quality = rows, quality
        self.alive = rows["row"].notna()
        self.dropped: dict[str, int] = {}
        self.full = rows["num_tokens"] > 0
        self.found: dict[str, Any] = {"empty": int((~self.full).sum()), "missing_text": int(rows["missing"].sum())}
        self.apply("empty", ~self.full)

    def apply(self, name: str, found: pd.Series) -> None:
        """Apply the policy ``quality.<name>`` to the rows of ``found`` that are not dropped yet."""
        if getattr(self.quality, name) == "drop":
            self.dropped[name] = int((found & self.alive).sum())
            self.alive &= ~found

    def again(self, keys: list[str]) -> pd.Series:
        """bool per row: whether it repeats an earlier row in ``keys``; dropped and empty rows do not count."""
        compared = self.rows[self.alive & self.full]
        return compared.duplicated(keys).reindex(self.rows.index, fill_value=False)


def decide(
    rows: pd.DataFrame, config: PreprocessConfig, cut: dict[str, float], share: np.ndarray
) -> tuple[pd.Series, dict[str, Any]]:
    """int8 per row: its split, or ``DROPPED``; and what was found, for the manifest.

    ``cut``: for validation and test the fraction of rows that the seed is to put there; ``share`` is int64 ``[splits,
    labels]``, the rows of each label.
    """
    has_label = rows["named"] != UNLABELLED_NUMBER
    split = rows["named"].copy()
    split.loc[has_label], report = decide_labelled(rows[has_label], config, cut, share)
    if not has_label.all():
        labelled = rows.assign(split=split)[has_label]
        split.loc[~has_label], found = decide_unlabelled(rows[~has_label], labelled, config)
        report["dropped"] = summed([report["dropped"], found.pop("dropped")])
        report[UNLABELLED] = found
    return split, report


def differ(rows: pd.DataFrame, name: str, key: str) -> pd.Series:
    """bool per row: whether rows that are equal in ``key`` differ in ``name``."""
    values = rows.groupby(key)[name]
    return values.transform("min") != values.transform("max")


def suspects(rows: pd.DataFrame, quality: QualityConfig) -> Sieve:
    """A sieve that has looked for contradictions and leaks among rows with labels."""
    sieve = Sieve(rows, quality)
    unequal = sieve.full & differ(rows, "label", "text_hash")
    sieve.apply("contradictions", unequal)
    split = rows["named"].clip(lower=TRAIN_NUMBER)
    leaking = sieve.full & (split < split.groupby(rows["text_hash"]).transform("max"))
    sieve.apply("leaks", leaking)
    sieve.found |= {"contradictions": int(unequal.sum()), "leaks": int(leaking.sum())}
    return sieve


def decide_labelled(
    rows: pd.DataFrame, config: PreprocessConfig, cut: dict[str, float], share: np.ndarray
) -> tuple[pd.Series, dict[str, Any]]:
    """``decide`` for rows with labels.

    Raises ``DataError`` for a group column that groups nothing, and for times that cannot be read or give no split.
    """
    splits, sieve, report = config.splits, suspects(rows, config.quality), dict[str, Any]()
    split = rows["named"].clip(lower=TRAIN_NUMBER)  # rows without a named split begin in training
    if splits.group_column is not None:
        of_groups = {} if splits.time_column else cut
        report["groups"] = by_group(rows, sieve.alive, split, of_groups, splits.group_column, config.seed)
    pool = sieve.alive & (split == TRAIN_NUMBER)
    if splits.time_column is not None:
        split.loc[pool], report["times"] = by_time(rows[pool], cut, splits.time_column)
    elif any(cut.values()) and splits.group_column is None:
        text, label = (rows[name][pool].to_numpy() for name in ("text_hash", "label"))
        split.loc[pool] = assign(text, label, share, seed=config.seed)
    sieve.rows = rows = rows.assign(split=split)
    duplicates = {
        "normalised": int(sieve.again(["text_hash"]).sum()),
        "across_splits": int(differ(rows[sieve.alive & sieve.full], "split", "text_hash").sum()),
    }
    sieve.apply("duplicates", sieve.again(["text_hash", "split"]))
    found = {**sieve.found, "duplicates": duplicates, "dropped": sieve.dropped, **report}
    return split.where(sieve.alive, DROPPED), found


def decide_unlabelled(
    rows: pd.DataFrame, labelled: pd.DataFrame, config: PreprocessConfig
) -> tuple[pd.Series, dict[str, Any]]:
    """``decide`` for rows without labels; the ``labelled`` rows have splits already.

    With folds, rows of training are validated on once too, so equal texts there are leaks as well.
    """
    sieve = Sieve(rows, config.quality)
    measured = labelled[labelled["split"] >= (TRAIN_NUMBER if config.splits.folds else VALIDATION_NUMBER)]
    shared = sieve.full & rows["text_hash"].isin(measured["text_hash"])
    shared |= (rows["group"] != NO_GROUP) & rows["group"].isin(measured["group"])
    found = {"rows": len(rows), **sieve.found, "shared": int(shared.sum())}
    sieve.apply("leaks", shared)
    again = sieve.again(["text_hash"])
    found["duplicates"] = int(again.sum())
    sieve.apply("duplicates", again)
    return rows["named"].where(sieve.alive, DROPPED), {**found, "dropped": sieve.dropped}


def check_splits(labels: np.ndarray, named: np.ndarray, rows: int, names: list[str], splits: SplitConfig) -> None:
    """Raise ``DataError`` for a split without rows or with too few labels.

    ``labels``: int64 ``[splits, labels]``, rows; ``named``: rows of each split that the source names; ``rows``: all;
    ``names``: the classes.
    """
    for number, (name, fraction) in enumerate(((TRAIN, 1.0), (VALIDATION, splits.validation), (TEST, splits.test))):
        present = np.flatnonzero(labels[number])
        if not len(present) and (fraction or named[number]):
            why = "equal texts, groups, and a class of one or two, stay in one split, and keys of quality may drop rows"
            raise DataError(f"split {name}: no row is left for it, of {rows:,}: {why}; give more, or change splits")
        if len(present) == 1:
            only = f"all {labels[number].sum()} rows have the label {names[present[0]]!r}"
            raise DataError(f"split {name}: {only}; a classifier needs two classes: check the source and its labels")
        if name == TRAIN and len(absent := np.flatnonzero(labels[number] == 0)):
            mend = "leave it out with source.labels or source.neutral"
            raise DataError(f"split {name}: no row has the label {names[absent[0]]!r}; add some, or {mend}")


def by_time(rows: pd.DataFrame, cut: dict[str, float], column: str) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per row: its split by ``splits.time_column``; and the manifest's ``statistics.times``.

    Rows with an equal text or of one group go with the last of them; rows without a time are in training.
    """
    key, number, date = f"splits.time_column: {column!r}", rows["number"], rows["date"]
    if not any(cut.values()):
        raise DataError(f"{key} has nothing to cut: the source names the splits, or their shares are 0; leave it out")
    if number.notna().any() and date.notna().any():
        raise DataError(f"{key}: times are written in two ways (numbers and dates); write all as 2024-12-31")
    time = number.fillna(date)
    last = time.groupby(components(rows)).transform("max")
    if last.nunique() == 1:
        raise DataError(f"{key}: all rows have the same time, or equal texts, so time cannot cut them; leave it out")
    late = last.rank(pct=True).fillna(0)  # rows of one time are cut by their mean rank
    bounds = [1 - cut[TEST] - cut[VALIDATION], 1 - cut[TEST]]
    split = np.digitize(late, bounds, right=True).astype(np.int8)
    found = shares(split, cut)
    for name, its in found.items():
        begin = int(last[split == SPLITS.index(name)].min())
        its["from"] = str(np.datetime64(begin, "s") if date.notna().any() else begin).removesuffix("T00:00:00")
    return split, {"column": column, "without": int(time.isna().sum()), "cut": found}


def shares(split: Any, cut: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The rows that each split got of its share, for the manifest."""
    found = {name: int((split == SPLITS.index(name)).sum()) for name in cut}
    return {
        name: {"rows": rows, "share": round(rows / len(split), 6), "wanted": cut[name]}
        for name, rows in found.items()
        if rows
    }


def by_group(
    rows: pd.DataFrame, alive: pd.Series, split: pd.Series, cut: dict[str, float], column: str, seed: int
) -> dict[str, Any]:
    """Change ``split`` so that rows of one group stay together; returns the manifest's ``statistics.groups``.

    A row without a named split follows its group if the source puts rows of that group into validation or test. Groups
    that the source itself divides are counted and left as they are.
    """
    grouped, named = rows["group"] != NO_GROUP, rows["named"]
    sizes = rows["group"][grouped].value_counts()
    if not (sizes > 1).any():
        what = f"no value is in two rows of {column!r}, so it groups nothing"
        raise DataError(f"splits.group_column: {what}; name another column, or leave it out")
    farthest = rows.groupby("group")["named"].transform("max").where(grouped, NO_SPLIT)  # from training
    follows = (named == NO_SPLIT) & (farthest > TRAIN_NUMBER)
    split.loc[follows] = farthest[follows]
    report: dict[str, Any] = {
        "column": column,
        "groups": len(sizes),
        "largest": int(sizes.max()),
        "shared": [],
        "cut": {},
    }
    for pair in itertools.combinations(range(len(SPLITS)), 2):
        both = rows[grouped & named.isin(pair)]
        both = both[differ(both, "named", "group")]
        if len(both):
            counts = {SPLITS[number]: int((both["named"] == number).sum()) for number in pair}
            report["shared"].append({"groups": both["group"].nunique(), "rows": counts})
    pool = alive & (split == TRAIN_NUMBER) & (farthest <= TRAIN_NUMBER)
    if any(cut.values()) and pool.any():
        label = rows["label"][pool].to_numpy()
        split.loc[pool] = assign_groups(components(rows[pool]), label, seed=seed, **cut)
        report["cut"] = shares(split[pool], cut)
    return report


def fold_rows(rows: pd.DataFrame, folds: int, seed: int, labels: int) -> tuple[pd.Series, dict[str, Any]]:
    """int16 per row: its fold, ``NO_FOLD`` where it is neither in training nor in validation; and the manifest's
    ``folds``.

    Raises ``DataError`` if there is nothing to measure on a fold, or if no other fold has one of its ``labels``.
    """
    pool = rows["split"].isin([SPLITS.index(TRAIN), SPLITS.index(VALIDATION)])
    together, label = components(rows[pool]), rows["label"][pool].to_numpy()
    result = rows["fold"].copy()
    result.loc[pool] = fold = assign_folds(together, label, folds=folds, seed=seed)
    counts = np.stack([np.bincount(label[fold == number], minlength=labels) for number in range(folds)])
    for number, inside in enumerate(counts):
        there = inside > 0
        if there.sum() < 2 or (inside == counts.sum(axis=0))[there].any():
            what = f"fold {number} of {folds} has fewer than two labels, or all rows of one"
            raise DataError(f"splits.folds: {what}; ask for fewer folds, or give more rows of each label")
    kept = len(np.unique(together))
    return result, {"rows": counts.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": kept}
