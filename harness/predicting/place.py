# SPDX-License-Identifier: Apache-2.0
"""Where predictions go: a file, made of parts that lie beside it until they are all there; or a folder of parts."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.outputs import Groups
from harness.inference.tables import kind_of_output
from harness.predicting.config import STDIN, PredictConfig
from harness.predicting.parts import Made
from harness.predicting.plan import Basis, Plan, read_plan
from harness.rundir.json_files import read_object
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.machine import locked
from preprocessing.base.storage import check_replaced, storing
from preprocessing.base.typed import Count, Sha256, typed
from preprocessing.base.untrusted import open_regular, parse_json, shown
from preprocessing.corpus import addresses

MANIFEST = "_predictions.json"
"""Readers of a folder of Parquet files pass over names that begin with an underscore or a dot."""
WORK, PLAN, LOCK = ".work", "plan.json", "lock"
FORMAT, FORMAT_VERSION = "padless-predictions", 1
BEFORE = "before.json"
"""The manifest of parts that are being removed."""
DIGITS = 5
PART = re.compile(r"part-\d+\.[a-z]+")
MOST_HEADER = 1 << 20
"""Bytes of a first line that are looked at."""
COPY_BYTES = 1 << 20
OTHERWISE = "name another --output"
BESIDE = "name another --output, or set --overwrite true"


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
    is_folder: bool

    @property
    def work(self) -> Path:
        """Plan, markers, and what is read more than once; of a file, its parts as well. Absolute."""
        beside = self.target / WORK if self.is_folder else self.target.with_name(f"{self.target.name}.parts")
        return beside.absolute()

    @property
    def manifest(self) -> Path:
        """What says that a folder is whole."""
        return self.target / MANIFEST

    def part(self, number: int, of: int) -> Path:
        """The file of a part."""
        name = f"part-{number:0{max(DIGITS, len(str(of - 1)))}d}.{self.kind}"
        return (self.target.absolute() if self.is_folder else self.work) / name

    def marker(self, number: int) -> Path:
        """What says that a part is whole."""
        return self.work / f"{number:0{DIGITS}d}.json"


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
    named = kind_of_output(config.output) if config.output_format == "auto" else config.output_format
    return Place(target, named, False)


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Hold the output against other predictions.

    Raises ``ConfigError`` for a folder of something else, ``StorageError`` where nothing can be written, ``UserError``
    while another prediction is being written there.
    """
    made = place.is_folder and not place.target.exists()
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
                if place.work.is_dir() and not (place.work / PLAN).exists():  # nothing was begun
                    atomic.vanish(place.work)
                    if made and not any(place.target.iterdir()):
                        place.target.rmdir()


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


def refuse_replacing(place: Place, plan: Plan) -> None:
    """Raise ``ConfigError`` for a file that holds no predictions of these classes."""
    columns = [] if place.is_folder else columns_of(place)
    check_replaced(place.target, False, lambda: place.is_folder or set(plan.names) <= set(columns))


def columns_of(place: Place) -> list[str]:
    """The columns of a file that was written before; none where it is another kind of file."""
    try:
        if place.kind == "parquet":
            return list(pq.read_schema(place.target).names)
        with open_regular(place.target) as file:
            line = file.readline(MOST_HEADER).decode()
        if place.kind == "jsonl":
            return list(parse_json(line.encode()))
        return next(csv.reader([line], delimiter="\t" if place.kind == "tsv" else ","), [])
    except (OSError, ValueError, TypeError, pa.ArrowException, csv.Error, DataError):
        return []


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Turn a failure to write into a ``StorageError`` that names the output."""
    with storing(place.target, otherwise=OTHERWISE):
        yield


def is_whole(place: Place, plan: Plan) -> bool:
    """Whether a folder holds all of this plan already. Raises ``ConfigError`` for whole predictions of another one."""
    if not place.is_folder or not place.manifest.exists():
        return False
    content = typed(Whole, read_object(place.manifest, BESIDE), str(place.manifest), BESIDE)
    if content.key != plan.key:
        what = changed(content.basis, plan.basis)
        raise ConfigError(f"--output {place.target}/: holds other predictions ({what}); {BESIDE}")
    for part in content.parts:
        if "/" in part.file:
            raise DataError(f"{place.manifest}: names a file outside its own folder ({shown(part.file)}); {BESIDE}")
    paths = [(place.target / part.file, part.bytes) for part in content.parts]
    return bool(paths) and all(path.is_file() and path.stat().st_size == size for path, size in paths)


def check_same(place: Place, begun: Plan, plan: Plan) -> None:
    """Raise ``ConfigError`` if something else was begun, ``DataError`` if the plan of it contradicts itself."""
    if begun.key != plan.key:
        what = changed(begun.basis, plan.basis)
        raise ConfigError(f"{place.work}: a prediction was begun with {what}; {BESIDE} to begin anew")
    if (begun.kind, begun.names, begun.wanted) != (plan.kind, plan.names, plan.wanted):
        raise DataError(f"{place.work / PLAN}: says other columns than its settings mean: edited or damaged; {BESIDE}")


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which of the things that decide a prediction is another one."""
    if before.get("weights") != now["weights"]:
        return "other weights"
    if before.get("inputs") != now["inputs"]:
        known = {one[0]: one[1:] for one in before.get("inputs", [])}
        name = next((one[0] for one in now["inputs"] if known.get(one[0]) != one[1:]), None)
        return f"another content of {name}" if name in known else "another input"
    for name, value in now["settings"].items():
        if (old := before.get("settings", {}).get(name)) != value:
            return f"{name} {old} and not {value}"
    return "another version"


def clear(place: Place, *, parts: bool) -> None:
    """Remove the plan and the markers, but for the lock; of a folder, its ``parts`` and the manifest as well.

    Raises ``ConfigError``, and removes nothing, where a part lies there that is not ours.
    """
    if place.is_folder and parts:
        known = known_parts(place)
        there = {path.name: atomic.final_of(path.name) or path.name for path in place.target.glob("part-*")}
        if others := sorted(name for name, final in there.items() if final not in known):
            raise ConfigError(
                f"--output {place.target}/: holds {others[0]}, which no prediction wrote; move it away, or {OTHERWISE}"
            )
        with suppress(FileNotFoundError):
            os.replace(place.manifest, place.work / BEFORE)
        for name in known:
            (place.target / name).unlink(missing_ok=True)
        remove_unfinished(place, known)
    last = [place.work / PLAN, place.work / BEFORE]
    for path in place.work.iterdir():
        if path not in last and path.name not in (LOCK, atomic.MARK):
            atomic.remove(path)
    for path in last:
        path.unlink(missing_ok=True)


def known_parts(place: Place) -> set[str]:
    """The names of the parts that were written, or begun, as the manifest or the plan have them."""
    known: set[str] = set()
    for path in (place.manifest, place.work / BEFORE):
        with suppress(DataError):
            content = typed(Whole, read_object(path, BESIDE) or {}, str(path), BESIDE)
            known |= {part.file for part in content.parts}
    with suppress(DataError):
        if (begun := read_plan(place.work / PLAN)) is not None:
            kept = replace(place, kind=begun.kind)
            known |= {kept.part(number, len(begun.parts)).name for number in range(len(begun.parts))}
    return {name for name in known if PART.fullmatch(name)}


def remove_unfinished(place: Place, names: Collection[str]) -> None:
    """Remove what a killed process has left in a folder of parts of these ``names``, and of the manifest."""
    for path in place.target.iterdir():
        if (final := atomic.final_of(path.name)) is not None and (final in names or final == MANIFEST):
            path.unlink()


def discard(place: Place) -> None:
    """Remove what only the work needed."""
    with writing(place):
        atomic.vanish(place.work)


def finish(place: Place, plan: Plan, found: Sequence[Made]) -> None:
    """Put the parts together, or write the manifest of the folder; then remove what only the work needed."""
    paths = [place.part(number, len(found)) for number in range(len(found))]
    with writing(place):
        if place.is_folder:
            remove_unfinished(place, {path.name for path in paths})
            atomic.write_json(place.manifest, manifest(plan, paths, found))
        else:
            with atomic.replacing(place.target) as temporary:
                (join_parquet if place.kind == "parquet" else join_lines)(paths, found, temporary)
        atomic.vanish(place.work)


def manifest(plan: Plan, paths: Sequence[Path], found: Sequence[Made]) -> dict[str, Any]:
    """What a folder of parts says of itself."""
    parts = [
        {"file": path.name, "rows": one.rows, "bytes": one.bytes, "sha256": one.sha256}
        for path, one in zip(paths, found, strict=True)
    ]
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": plan.key, "rows": plan.rows}
    return {**head, "columns": plan.names, "difference": greatest(found), "basis": plan.basis, "parts": parts}


def greatest(found: Sequence[Made]) -> float | None:
    """The greatest difference against fp32 in any part; None where all is fp32."""
    return max((one.difference for one in found if one.difference is not None), default=None)


def join_lines(paths: Sequence[Path], found: Sequence[Made], target: Path) -> None:
    """CSV and JSON lines: one after the other, with what stands above the rows once."""
    with open(target, "wb") as file:
        for number, (path, one) in enumerate(zip(paths, found, strict=True)):
            with open(path, "rb") as part:
                part.seek(one.header if number else 0)
                shutil.copyfileobj(part, file, COPY_BYTES)


def join_parquet(paths: Sequence[Path], found: Sequence[Made], target: Path) -> None:
    """Parquet: row groups of a bounded size."""
    groups = Groups(target)
    try:
        for path in paths:
            with pq.ParquetFile(path) as part:
                for number in range(part.num_row_groups):
                    groups.add(part.read_row_group(number))
    finally:
        groups.close()
