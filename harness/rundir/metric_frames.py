# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl`` as a pandas frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.rundir import metrics_log
from harness.rundir.layout import METRICS
from harness.rundir.many_runs import members
from preprocessing.base.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_metrics(run: str | Path, kind: str | None = None) -> pd.DataFrame:
    """What a run has logged so far: a row for each line of ``metrics.jsonl``, and a column for each figure.

    ``kind`` picks ``train``, ``validation`` or ``test`` lines, and with them the figures that these have; otherwise the
    column ``kind`` tells them apart, and a figure that a line does not have is missing. The runs of a folder of many
    stand one below the other, with a column ``seed`` or ``fold`` that tells which. Raises ``DataError`` where
    there is no run, or a damaged one, or nothing of this ``kind``.
    """
    import pandas as pd

    if runs := members(run):
        pieces = [read_metrics(one.path, kind) for one in runs]
        for one, piece in zip(runs, pieces, strict=True):
            piece.insert(0, one.kind, one.number)
        return pd.concat(pieces, ignore_index=True)
    path = Path(run, METRICS)
    if not path.is_file():
        raise DataError(f"{path}: missing: {run} is not a run directory, or its training has not begun")
    lines = metrics_log.read_metrics(run)
    if kind is not None:
        kinds = dict.fromkeys(str(line.get("kind")) for line in lines)
        lines = [line for line in lines if line.get("kind") == kind]
        if not lines:
            raise DataError(f"{path}: has no line of the kind {kind!r}; it has {', '.join(kinds) or 'no lines yet'}")
    return pd.DataFrame(lines)
