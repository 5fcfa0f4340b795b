# SPDX-License-Identifier: Apache-2.0
"""Options of ``export``. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a run's model into a folder for others: weights, text pipeline, ONNX, a model card."""

    SUBJECT = ("run",)
    run: str
    """Run directory or bundle."""
    output: str
    """Folder to write, which must not be there yet."""
    onnx: bool = False
    """Write the network for ONNX Runtime too, and compare its results with torch's."""
    int8: bool = False
    """Write it with 8-bit weights too, and measure the loss of accuracy on the validation split; implies --onnx."""
    data: str | None = None
    """Dataset with the validation split for --int8; null: the one that the run was trained on."""
    license: str = "unknown"
    """Licence of the model, by its name on the hub, as in cc-by-4.0; the owners of the texts must allow it."""
    language: str | None = None
    """Language of the texts for the model card, as in en; null: the one of the text pipeline."""
    name: str | None = None
    """Name of the model in the model card; null: the name of the run's folder."""
    quiet: bool = False
    """Print errors only."""

    def __post_init__(self) -> None:
        """Check that --data has an effect."""
        if self.data is not None and not self.int8:
            raise ConfigError("data: only --int8 is measured on a dataset; leave --data out, or add --int8")
