# SPDX-License-Identifier: Apache-2.0
"""Where predictions are written: a file, or a folder of parts; claimed, kept from overwriting, put together.

::

    NAME.parts/ or NAME/.work/     what was begun, the markers of finished parts; of a file, its parts
    NAME/part-00000.parquet …      the parts of a folder
    NAME/_predictions.json         written last: the parts with their hashes
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.inference.config import STDIN, PredictConfig
from harness.inference.parts import Made, ScoredPart
from harness.inference.rows import KINDS
from harness.rundir.json_files import read_object
from harness.rundir.results import probability_column
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.base.schema import Count, Sha256, typed
from preprocessing.base.untrusted import shown
from preprocessing.corpus import addresses

MANIFEST = "_predictions.json"
"""Readers of a folder of Parquet files pass over names that begin with an underscore or a dot."""
WORK, BEGUN, LOCK = ".work", "begun.json", "lock"
FORMAT, FORMAT_VERSION = "padless-predictions", 1
PART = re.compile(r"part-\d{5,}\.(csv|tsv|jsonl|parquet)")
COPY_BYTES = 1 << 20
OTHERWISE = "name another --output"
ANEW = f"{OTHERWISE}, or set --overwrite true"


@dataclass(frozen=True)
class Basis:
    """All that decides the predictions, as plain values."""

    inputs: list[tuple[str, str, dict[str, str]]]
    """Name, kind and fingerprint of each file."""
    weights: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class WholePart:
    """One file of a folder of predictions."""

    file: str
    rows: Count
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Whole:
    """``_predictions.json``."""

    key: str
    basis: Basis
    parts: list[WholePart]
    rows: Count = 0
    columns: list[str] = field(default_factory=list)
    difference: float | None = None
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Place:
    """An output and where it is made."""

    target: Path
    kind: str
    """csv, tsv, jsonl or parquet."""
    is_folder: bool

    @property
    def work(self) -> Path:
        """What was begun, markers, and what is read more than once; of a file, its parts as well. Absolute."""
        beside = self.target / WORK if self.is_folder else self.target.with_name(f"{self.target.name}.parts")
        return beside.absolute()

    @property
    def manifest(self) -> Path:
        """What says that a folder is whole."""
        return self.target / MANIFEST

    @property
    def root(self) -> Path:
        """Where the files of the parts lie. Absolute."""
        return self.target.absolute() if self.is_folder else self.work

    def part_name(self, number: int, of: int) -> str:
        """The file of a part; names of as many digits, so that their order is that of the rows."""
        return f"part-{number:0{max(5, len(str(of - 1)))}d}.{self.kind}"


def place_of(config: PredictConfig) -> Place:
    """Where and as what ``config`` has predictions written. Raises ``ConfigError`` for what cannot be written to."""
    assert config.output is not None
    if addresses.is_remote(config.output):
        raise ConfigError(f"--output {config.output}: is remote; write to a disk here, and copy what is whole")
    target = Path(config.output).expanduser()
    if target.is_dir() or config.output.endswith("/"):
        return Place(target, "parquet" if config.output_format == "auto" else config.output_format, True)
    if target.exists() and not target.is_file():
        raise ConfigError(
            f"--output {target}: is no file but a pipe or a device; name a file, or a folder with / behind"
        )
    kind = KINDS.get(target.suffix.lower()) if config.output_format == "auto" else config.output_format
    if kind is None or kind == "txt":
        raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv, .tsv or .jsonl, or DIRECTORY/")
    return Place(target, kind, False)


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Hold the output against other predictions.

    Raises ``ConfigError`` for a folder of something else, ``StorageError`` where nothing can be written, ``UserError``
    while another prediction is being written there.
    """
    is_new = place.is_folder and not place.target.exists()
    refuse_foreign(place)
    refusal = UserError(f"{place.target}: another process is predicting to it; wait for it, or stop it")
    with writing(place):
        if not atomic.is_signed(place.work, place.target):
            with suppress(FileExistsError), atomic.new_folder(place.work) as work:  # another process may be faster
                atomic.sign(work, place.target)
        with locked(place.work / LOCK, 0, refusal):
            atomic.sweep(place.target)
            try:
                yield
            finally:
                if place.work.is_dir() and not (place.work / BEGUN).exists():
                    atomic.vanish(place.work)
                    if is_new and not any(place.target.iterdir()):
                        place.target.rmdir()


def writing(place: Place) -> AbstractContextManager[None]:
    """Turns a failure to write into a ``StorageError`` that names the output."""
    return storing(place.target, otherwise=OTHERWISE)


def refuse_foreign(place: Place) -> None:
    """Raise ``ConfigError`` where the work would lie in a folder of somebody else, or a folder of parts holds more."""
    begun = atomic.is_signed(place.work, place.target)
    if os.path.lexists(place.work) and not begun:
        raise ConfigError(
            f"{place.work}: is where parts would lie, and no prediction made it; rename it, or {OTHERWISE}"
        )
    if place.is_folder and place.target.is_dir() and not begun and not atomic.says(place.manifest, FORMAT):
        there = sorted(path.name for path in place.target.iterdir() if atomic.final_of(path.name) != WORK)
        if there:
            raise ConfigError(f"--output {place.target}/: holds {there[0]}, and no predictions; name an empty folder")


def refuse_inputs(place: Place, names: Iterable[str]) -> None:
    """Raise ``ConfigError`` if an output is one of the inputs, by whatever name, or a folder that holds one."""
    for name in names:
        path = Path(addresses.local_path(name)) if name != STDIN and not addresses.is_remote(name) else None
        if path is None or not path.exists() or not place.target.exists():
            continue
        inside = place.is_folder and path.resolve().is_relative_to(place.target.resolve())
        if inside or path.samefile(place.target):
            raise ConfigError(f"--output {place.target}: {name} is the input, or lies there; name another --output")


def refuse_replacing(place: Place, prefix: str) -> None:
    """Raise ``ConfigError`` for a file that has none of the columns that a prediction adds."""
    words = [f"{prefix}predicted", f"{prefix}{probability_column('')}"]
    if not place.is_folder:
        check_replaced(place.target, False, lambda: all(atomic.says(place.target, word) for word in words))


def is_whole(place: Place, key: str, basis: Basis) -> bool:
    """Whether a folder holds all of these predictions already. Raises ``ConfigError`` for those of another job."""
    if not place.is_folder or not place.manifest.exists():
        return False
    content: Whole = typed(Whole, read_object(place.manifest, ANEW), str(place.manifest), ANEW)
    if content.key != key:
        raise ConfigError(
            f"--output {place.target}/: holds other predictions ({changed(content.basis, basis)}); {ANEW}"
        )
    if foreign := next((part.file for part in content.parts if not PART.fullmatch(part.file)), None):
        raise DataError(f"{place.manifest}: names {shown(foreign)}, which is no part; {ANEW}")
    paths = [(place.target / part.file, part.bytes) for part in content.parts]
    return bool(paths) and all(path.is_file() and path.stat().st_size == size for path, size in paths)


def is_begun(place: Place, basis: Basis) -> bool:
    """Whether these predictions were begun there. Raises ``ConfigError`` where others were."""
    path = place.work / BEGUN
    if (content := read_object(path, ANEW)) is None:
        return False
    before: Basis = typed(Basis, content, str(path), ANEW)
    if before == basis:
        return True
    raise ConfigError(f"{place.work}: a prediction was begun with {changed(before, basis)}; {ANEW} to start again")


def changed(before: Basis, now: Basis) -> str:
    """Which of the things that decide a prediction is another one."""
    if before.weights != now.weights:
        return "other weights"
    if before.inputs != now.inputs:
        known = {name: rest for name, *rest in before.inputs}
        name = next((name for name, *rest in now.inputs if known.get(name) != rest), None)
        return f"another content of {name}" if name in known else "another input"
    return next(
        (
            f"{name} {before.settings.get(name)} and not {value}"
            for name, value in now.settings.items()
            if before.settings.get(name) != value
        ),
        "another version",
    )


def clear(place: Place) -> None:
    """Remove what was begun, but for the lock; of a folder, the parts and the manifest as well."""
    if place.is_folder:
        for path in sorted(place.target.iterdir()):  # the manifest first
            if is_ours(path):
                path.unlink()
    for path in place.work.iterdir():
        if path.name not in (LOCK, atomic.MARK):
            atomic.remove(path)


def is_ours(path: Path) -> bool:
    """Whether a file in a folder of predictions is a part or the manifest, or was to become one."""
    name = atomic.final_of(path.name) or path.name
    return name == MANIFEST or PART.fullmatch(name) is not None


def finish(place: Place, parts: Sequence[ScoredPart], known: Mapping[int, Made], basis: Basis) -> list[Made]:
    """Put the parts together, or write the manifest of the folder; then remove what only the work needed.

    ``known`` are the parts by their numbers; all are returned in order. Raises ``DataError`` where one is missing.
    """
    for part in parts:
        if part.number not in known or not part.path.is_file():
            what = "is not seen here; name an --output on a disk that all who predict share"
            raise DataError(f"{part.path}: {what}")
    found = [known[part.number] for part in parts]
    with writing(place):
        if place.is_folder:
            for path in place.target.iterdir():
                if atomic.final_of(path.name) is not None and is_ours(path):  # what a killed process has left
                    path.unlink()
            atomic.write_json(place.manifest, manifest(parts, found, basis))
        else:
            with atomic.replacing(place.target) as temporary:
                (join_parquet if place.kind == "parquet" else join_lines)(parts, temporary)
        atomic.vanish(place.work)
    return found


def manifest(parts: Sequence[ScoredPart], found: Sequence[Made], basis: Basis) -> dict[str, Any]:
    """What a folder of parts says of itself."""
    whole = [
        {"file": part.name, "rows": one.rows, "bytes": one.bytes, "sha256": one.sha256}
        for part, one in zip(parts, found, strict=True)
    ]
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": parts[0].key}
    head |= {"rows": sum(one.rows for one in found), "columns": parts[0].layout.names, "difference": greatest(found)}
    return {**head, "basis": asdict(basis), "parts": whole}


def greatest(found: Sequence[Made]) -> float | None:
    """The greatest difference against fp32 in any part; None where all is fp32."""
    return max((one.difference for one in found if one.difference is not None), default=None)


def join_lines(parts: Sequence[ScoredPart], target: Path) -> None:
    """CSV and JSON lines: the header, and the parts one after the other."""
    with open(target, "wb") as file:
        file.write(parts[0].layout.header(parts[0].part))
        for part in parts:
            with open(part.path, "rb") as content:
                shutil.copyfileobj(content, file, COPY_BYTES)


def join_parquet(parts: Sequence[ScoredPart], target: Path) -> None:
    """Parquet: the row groups of the parts."""
    with pq.ParquetWriter(target, pq.read_schema(parts[0].path)) as writer:
        for part in parts:
            with pq.ParquetFile(part.path) as content:
                for group in range(content.num_row_groups):
                    writer.write_table(content.read_row_group(group))
