# SPDX-License-Identifier: Apache-2.0
"""Options of ``export``, and the run or bundle that it is of. Nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.rundir.bundle_files import bundle_directory
from harness.rundir.layout import BUNDLE, holds_run
from preprocessing.base.errors import ConfigError
from preprocessing.base.schema import AtLeast1

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a run's model into a folder for others: weights, text pipeline, ONNX, a model card. Or push such a folder
    to the hub."""

    output: str | None = None
    """Folder to write, which must not be there yet. Without one, RUN is an export folder that --push takes."""
    onnx: bool = False
    """Write the network for ONNX Runtime too, and hold it against torch."""
    int8: bool = False
    """Write it with 8-bit weights too, and measure on the validation split what that costs; means --onnx."""
    data: str | None = None
    """Dataset whose validation split --int8 is measured on; null: the one that the run was trained on."""
    license: str = "unknown"
    """Licence of the model, by the name that the hub has for it, as in cc-by-4.0: what the texts' owners allow."""
    language: str | None = None
    """Language of the texts for the model card, as in en; null: the one of the text pipeline."""
    name: str | None = None
    """What the model card calls the model; null: the name of the run's folder."""
    push: str | None = None
    """Repository of the hub to upload the folder to, as in OWNER/NAME; one that is new is made private."""
    batch: AtLeast1 = 64
    """Rows computed at once."""
    quiet: bool = False
    """Say nothing but errors."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is something to do."""
        if self.output is None and self.push is None:
            raise ConfigError("output: missing: name the folder to write, as in --output exports/mine")
        if self.push is not None and not REPOSITORY.fullmatch(self.push):
            raise ConfigError(f"push: {self.push!r} names no repository of the hub; it is OWNER/NAME")
        if self.data is not None and not self.int8:
            raise ConfigError("data: only --int8 is measured on a dataset; leave --data out, or add --int8")


@dataclass(frozen=True)
class Place:
    """What was named on the command line."""

    bundle: Path
    run: Path | None
    """The run directory around the bundle, if there is one."""

    @classmethod
    def of(cls, named: Path) -> Place:
        """Run and bundle of a path; a bundle in its run is known as that run's."""
        bundle = bundle_directory(named)
        around = bundle.parent if bundle.name == BUNDLE else bundle
        return cls(bundle, around if holds_run(around) else None)
