# SPDX-License-Identifier: Apache-2.0
"""The splits of a dataset that a run reads, mapped in place. A run checks at each validation that the files have not
changed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from harness.data.targets import SoftTargets
from harness.distributed.world import World
from padless.core.errors import DataError
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.views import open_split, read_data


@dataclass
class OpenData:
    """The open splits of a dataset. After a mapped file is truncated, reading a lost page kills the process
    (SIGBUS).
    """

    data: str
    manifest: Manifest
    splits: dict[str, Split]
    targets: SoftTargets | None = None
    """Of the rows of ``train``, where a teacher has taught."""

    def check(self) -> None:
        """Between epochs: raise ``DataError`` if the manifest or a mapped shard has changed since the start."""
        if read_data(self.data).fingerprint != self.manifest.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (it has another fingerprint); restore the old "
                "one, or start a new run"
            )
        for split in self.splits.values():
            split.check_unchanged()


def open_data(data: str, manifest: Manifest, names: Collection[str], world: World) -> OpenData:
    """Open splits of a dataset. Every rank calls it; raises the same ``UserError`` on all."""
    for name in sorted({*names}.difference(manifest.names)):
        splits = ", ".join(sorted(manifest.names))
        raise DataError(f"{data}: has no split {name!r}; it has {splits}; name another")
    with world.raise_together("opening the dataset"):
        return OpenData(data, manifest, {name: open_split(data, manifest, name) for name in names})
