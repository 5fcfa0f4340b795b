# SPDX-License-Identifier: Apache-2.0
"""An export: a bundle with other forms of its network beside it, a model card, and an index that seals them.

::

    bundle.json, weights-<sha256>.safetensors, vocabulary.arrow, training.json      as in a bundle
    model.onnx, model-int8.onnx     the network for ONNX Runtime, where they were asked for
    README.md                       the model card, which anybody may edit: nothing here vouches for it
    export.json                     names the files, with bytes and sha256, and the bundle that they belong to

The folder is a bundle directory, and whoever reads bundles reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from harness.rundir.bundle_files import INDEX, SEAL, BundleInfo, content_of, seal_of
from harness.rundir.json_files import read_object
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.typed import Count, Sha256, having, typed
from preprocessing.base.untrusted import open_regular, read_bytes, readable, sha256_of, shown

FORMAT, FORMAT_VERSION = "padless-export", 1
EXPORT = "export.json"
CARD = "README.md"
ONNX, INT8 = "model.onnx", "model-int8.onnx"
IDS, LENGTHS, LOGITS, PROBABILITIES = "ids", "lengths", "logits", "probabilities"
"""Inputs and outputs of the graphs."""
BUNDLE = "bundle"
"""Under this name a graph says, as the index does, which bundle it belongs to."""
MOST_ONNX = 2 << 30
"""Bytes of an ONNX file: its format has no more."""
AGAIN = "export the run again"


Facts = Annotated[dict[str, Any], having(bytes=Count, sha256=Sha256)]


@dataclass(frozen=True)
class ExportInfo:
    """``export.json``."""

    bundle: str
    """The sha256 by which the ``bundle.json`` beside it vouches for itself."""
    weights_sha256: Sha256
    """Of the safetensors file that every form of the network was made from."""
    files: dict[str, Facts]
    """By name: bytes, sha256, and for a form of the network what was measured of it."""
    padless: str = ""
    """The version that wrote it."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


def facts_of(path: Path, **more: Any) -> dict[str, Any]:
    """What the index says of a file."""
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path), **more}


def write_export(directory: Path, info: ExportInfo) -> None:
    """Write ``export.json``, the last file but the card. Raises ``OSError``."""
    content = asdict(info)
    atomic.write_json(directory / EXPORT, {**content, SEAL: seal_of(content)})


def read_export(directory: Path, bundle: BundleInfo) -> ExportInfo | None:
    """Read ``export.json`` and hold every file that it names, and that is there, against it; None without one.

    A file may be missing: an image that serves one form of the network needs no other. Raises ``DataError`` for an
    index that is damaged or belongs to another bundle, and for a file that is not the one it names.
    """
    path = directory / EXPORT
    content = read_object(path)
    if content is None:
        return None
    if (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        found = f"{readable(content.get('format'))} {readable(content.get('format_version'))}"
        raise DataError(f"{path}: {found}, this padless reads {FORMAT} {FORMAT_VERSION}: export the run again")
    seal = content.pop(SEAL, None)
    if seal != seal_of(content):
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; export the run again")
    info = typed(ExportInfo, content, str(path), f"edited or damaged; {AGAIN}")
    if info.bundle != seal_of(content_of(bundle)) or info.weights_sha256 != bundle.weights_sha256:
        raise DataError(f"{path}: belongs to another bundle than the {INDEX} beside it; export the run again")
    check_files(directory, info.files)
    return info


def check_files(directory: Path, files: Mapping[str, Any]) -> None:
    """Raise ``DataError`` for a file that is not the one that the index names; one that is missing is not looked at."""
    for name, said in files.items():
        if "/" in name or not name.isprintable() or name in ("", ".", ".."):
            raise DataError(f"{directory / EXPORT}: names a file outside its own folder ({shown(name)}); {AGAIN}")
        path = directory / name
        if path.is_symlink() or path.exists():
            check_file(path, said)


def check_file(path: Path, said: Mapping[str, Any]) -> None:
    """Raise ``DataError`` for a file of another size or content, the size first: nothing is read for a wrong one."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            too_large = path.suffix == ".onnx" and size > MOST_ONNX
            digest = sha256_of(file) if size == said["bytes"] and not too_large else ""
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {AGAIN}") from None
    if size != said["bytes"]:
        raise DataError(f"{path}: has {size:,} bytes, and {EXPORT} says {said['bytes']:,}: not the file of this export")
    if too_large:
        raise DataError(f"{path}: has {size:,} bytes, and no ONNX file more than {MOST_ONNX:,}: not what its name says")
    if digest != said["sha256"]:
        raise DataError(f"{path}: its sha256 is not the one in {EXPORT}: bytes were changed, or it is another export's")


def read_model(directory: Path, info: ExportInfo, name: str) -> bytes:
    """The bytes of a form of the network. Raises ``DataError`` where it is not there, or not the one named."""
    if name not in info.files or not (directory / name).is_file():
        raise DataError(
            f"{directory}: holds no {name}; export the run again with --{'int8' if name == INT8 else 'onnx'}"
        )
    data = read_bytes(directory / name, info.files[name]["bytes"])
    if hashlib.sha256(data).hexdigest() != info.files[name]["sha256"]:
        raise DataError(f"{directory / name}: its sha256 is not the one in {EXPORT}: bytes were changed")
    return data
