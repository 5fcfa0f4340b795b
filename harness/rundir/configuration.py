# SPDX-License-Identifier: Apache-2.0
"""``config.yaml``: the configuration that a run was started with, every default spelt out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml

from harness.config import RunConfig, to_dict
from harness.rundir.json_files import MEND
from harness.rundir.layout import CONFIG
from harness.rundir.many_runs import refuse_many
from harness.rundir.storage import storage
from harness.settings.task import CLASSIFIER, Task
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.typed import Count, Spelt, having, typed
from preprocessing.base.untrusted import one_line, parse_json, read_bytes

MOST_CONFIG = 4 << 20
"""Bytes of ``config.yaml``; one is a few kilobytes."""


def write_config(config: RunConfig) -> None:
    """Write the resolved configuration into the run directory. Raises ``StorageError``."""
    with storage(config.run):
        atomic.write_text(Path(config.run, CONFIG), yaml.safe_dump(to_dict(config), sort_keys=False))


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which we write none of: a few lines of them unfold to more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, unless it stands for another one."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "found an alias, which is not read", event.start_mark)
        return super().compose_node(parent, index)


def read_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run, as plain values. Raises ``DataError``."""
    path = Path(run, CONFIG)
    try:
        data = read_bytes(path, MOST_CONFIG)
        content = parse_json(json.dumps(yaml.load(data.decode(), PlainLoader)).encode())
    except FileNotFoundError:
        refuse_many(run)
        raise DataError(f"{path}: missing: {run} is not a run directory") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {MEND}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not readable as YAML ({one_line(error)}); {MEND}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no keys: damaged; {MEND}")
    typed(Known, {name: content[name] for name in KNOWN if name in content}, str(path), MEND)
    return content


Place = Annotated[str, Spelt(r"[^\0]{0,4096}", "a place")]


@dataclass(frozen=True)
class Known:
    """What other parts of padless ask of a stored configuration, whichever version wrote it."""

    data: Place = ""
    run: Place = ""
    task: Task = CLASSIFIER
    fold: Count | None = None
    seed: Count = 0
    model: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    tracking: Annotated[dict[str, Any], having(project=str)] | None = None


KNOWN = tuple(one.name for one in fields(Known))
