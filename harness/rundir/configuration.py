# SPDX-License-Identifier: Apache-2.0
"""``config.yaml``: the configuration that a run was started with, every default spelt out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.config import RunConfig, to_dict
from harness.rundir.layout import CONFIG
from harness.rundir.many_runs import refuse_many
from harness.rundir.storage import storage
from preprocessing.base import atomic
from preprocessing.base.errors import DataError


def write_config(config: RunConfig) -> None:
    """Write the resolved configuration into the run directory. Raises ``StorageError``."""
    with storage(config.run):
        atomic.write_text(Path(config.run, CONFIG), yaml.safe_dump(to_dict(config), sort_keys=False))


def read_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run, as plain values. Raises ``DataError``."""
    path = Path(run, CONFIG)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse_many(run)
        raise DataError(f"{path}: missing: {run} is not a run directory") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no keys: damaged")
    return content
