# SPDX-License-Identifier: Apache-2.0
"""Options of ``export``. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from padless.core.atomic import refuse_inside
from padless.core.errors import ConfigError
from padless.core.schema import LanguageCode, LocalPath, Name


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a run's model into a folder for others: weights, text pipeline, ONNX, a model card."""

    SUBJECT = ("run",)
    run: LocalPath
    """Run directory or bundle."""
    output: LocalPath
    """Folder to write, which must not be there yet."""
    onnx: bool = False
    """Write the network for ONNX Runtime too, and compare its results with torch's."""
    license: Name = "unknown"
    """Licence of the model, by its name on the hub, as in cc-by-4.0; the owners of the texts must allow it."""
    language: LanguageCode | None = None
    """Language of the texts for the model card, as in en; null: the one of the text pipeline,
    if its tokenizer, stop words or lemmas depend on it."""
    name: Name | None = None
    """Name of the model in the model card; null: the name of the run's folder."""
    quiet: bool = False
    """Print errors only."""

    def __post_init__(self) -> None:
        """Check that nothing would be overwritten."""
        refuse_inside("output", Path(self.output))
        if os.path.lexists(self.output):
            raise ConfigError(f"output: {self.output} is there already; name another folder, or remove it")
