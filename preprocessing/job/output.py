# SPDX-License-Identifier: Apache-2.0
"""The output directory: who may write in it, what is there already, and what is removed at the end."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.locks import locked
from preprocessing.base.split_names import SPLITS
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.sources import Plan
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Manifest, ShardInfo, parse_manifest, read_manifest
from preprocessing.job.provenance import recorded

WORK = ".work"
OURS = {MANIFEST, VOCABULARY, WORK, *SPLITS}
REPLACE = "choose another --output, or replace it with --overwrite true"


def build_directory(config: PreprocessConfig) -> Path:
    """Where the dataset is built: the output itself, or a local directory if the output is remote."""
    if not addresses.is_remote(config.output):
        return Path(config.output)
    if config.staging:
        return Path(config.staging)
    return remote.cache_folder() / "building" / hashlib.sha256(config.output.encode()).hexdigest()[:32]


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Let one run at a time write below ``root``. The lock ends with the process that holds it, however that ends.

    Raises ``ConfigError`` where nothing can be written (a full disk, too), ``UserError`` while another run writes.
    """
    with naming(root):
        refuse_foreign(root)
        refusal = UserError(f"{root}: another run is writing this dataset; wait for it, or stop it")
        with locked(root / WORK / "lock", 0, refusal):
            yield


@contextmanager
def naming(root: Path) -> Iterator[None]:
    """Turn a failure to write into a sentence that names the output."""
    try:
        yield
    except OSError as error:
        hint = "name a directory that can be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and run the same command to continue, or name a directory elsewhere"
        raise ConfigError(f"output: {error.filename or root}: {error.strerror or error}; {hint}") from None


def refuse_foreign(root: Path) -> None:
    """Do not write a dataset among files that are not one's."""
    if root.is_dir():
        strangers = sorted(path.name for path in root.iterdir() if path.name not in OURS)
        ours = any((root / name).exists() for name in (MANIFEST, WORK))
        if strangers and not ours:
            raise ConfigError(
                f"output: {root}: holds {strangers[0]!r} and no dataset; name an empty or a new directory"
            )


def existing(address: str, overwrite: bool) -> Manifest | None:
    """The manifest that is there. Raises ``ConfigError`` for one that cannot be read, unless it may be replaced."""
    try:
        if addresses.is_remote(address):
            content = remote.manifest_bytes(address)
            return None if content is None else parse_manifest(content, remote.join(address, MANIFEST))
        return read_manifest(address) if Path(address, MANIFEST).exists() else None
    except DataError as error:
        if overwrite:
            return None
        raise ConfigError(f"{error}; {REPLACE}") from None


def is_current(manifest: Manifest, config: PreprocessConfig, text: dict[str, Any], plans: list[Plan]) -> bool:
    """Whether the dataset that is there is what this run would write.

    Raises ``ConfigError`` if it is not and may not be replaced either.
    """
    known = manifest.provenance
    before = [entry.get("fingerprint") for entry in known.get("sources", [])]
    unchanged = before == [plan.fingerprint for plan in plans]
    if known.get("config") == recorded(config, manifest.labels) and manifest.text == text and unchanged:
        return True
    if not config.overwrite:
        other = "of another configuration" if unchanged else "made of another source, or of one that has changed since"
        raise ConfigError(f"output: {config.output}: holds a dataset {other}; {REPLACE}")
    return False


def remove_stale_shards(root: Path, splits: dict[str, list[ShardInfo]]) -> None:
    """Shards of an earlier configuration do not stay beside a manifest that does not name them."""
    named = {root / info.path for infos in splits.values() for info in infos}
    for split in SPLITS:
        for path in (root / split).glob("*.arrow*"):
            if path not in named:
                path.unlink()
        if (root / split).is_dir() and not any((root / split).iterdir()):
            (root / split).rmdir()


def finish(root: Path, config: PreprocessConfig, fresh: bool) -> None:
    """Publish a fresh dataset if its output is remote. Then remove what only the building of it needed."""
    if not addresses.is_remote(config.output):
        shutil.rmtree(root / WORK, ignore_errors=True)
        return
    if fresh:
        remote.publish(root, config.output)
    for name in OURS:
        shutil.rmtree(root / name, ignore_errors=True)
        if (root / name).is_file():
            (root / name).unlink()
