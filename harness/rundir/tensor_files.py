# SPDX-License-Identifier: Apache-2.0
"""What a safetensors file says of itself, read before a tensor is: names, dtypes and shapes, held against its length.

The format is https://huggingface.co/docs/safetensors: eight bytes that give the length of a JSON object, the object,
then the numbers. Nothing here imports torch, and nothing larger than the object is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from preprocessing.base.errors import DataError
from preprocessing.base.typed import Between, Count, MismatchError, typed
from preprocessing.base.untrusted import open_regular, parse_json, shown

BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1},
}
"""Of a number of each dtype."""
MOST_HEADER = 16 << 20
"""Bytes of the object; a network of ours has a few hundred bytes for each tensor."""
METADATA = "__metadata__"
FEW = 3
"""So many names stand in a sentence."""


@dataclass(frozen=True)
class Stored:
    """A tensor as the file describes it."""

    dtype: str
    shape: Annotated[tuple[Count, ...], Between(0, 8)]
    data_offsets: tuple[Count, Count]

    @property
    def bytes(self) -> int:
        """What dtype and shape come to."""
        return BYTES[self.dtype] * math.prod(self.shape)

    def __str__(self) -> str:
        """For a sentence."""
        return f"{self.dtype} {list(self.shape)}"


Tensors = dict[str, Stored]
Wanted = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype and shape that a network has."""


def read_header(path: Path, mend: str) -> Tensors:
    """Every tensor of a file, by name. Raises ``DataError`` for what is no whole file of tensors.

    The sizes are held against the file's own length, so whoever loads it afterwards takes no more memory than that.
    """
    try:
        with open_regular(path) as file:
            return header_of(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {mend}") from None
    except (ValueError, MismatchError) as error:
        raise DataError(f"{path}: not a safetensors file ({error}); {mend}") from None


def header_of(file: BinaryIO, size: int, path: Path) -> Tensors:
    """Raises ``ValueError`` with what is wrong, ``DataError`` for a value of the wrong type."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(MOST_HEADER, size - 8):
        raise ValueError("its header is longer than the file" if length <= MOST_HEADER else "its header has no end")
    content = parse_json(file.read(length))
    if not isinstance(content, dict):
        raise ValueError("its header is no JSON object")
    content.pop(METADATA, None)
    found = {name: stored(name, value) for name, value in content.items()}
    check_places(found, size - 8 - length)
    return found


def stored(name: str, value: Any) -> Stored:
    """One entry. Raises ``ValueError``."""
    try:
        entry = typed(Stored, value, f"tensor {shown(name)}", "its header is damaged")
    except DataError as error:
        raise ValueError(str(error)) from None
    if entry.dtype not in BYTES:
        raise ValueError(f"tensor {shown(name)} is of dtype {shown(entry.dtype)}")
    return entry


def check_places(found: Tensors, size: int) -> None:
    """Raise ``ValueError`` unless the tensors fill their ``size`` bytes, one behind the other."""
    end = 0
    for name, entry in sorted(found.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        if start != end or stop - start != entry.bytes:
            raise ValueError(f"tensor {shown(name)} does not lie where its shape says")
        end = stop
    if end != size:
        raise ValueError(f"its tensors have {end:,} bytes, and {size:,} are there")


def differences(found: Mapping[str, Stored], wanted: Wanted) -> Iterator[str]:
    """What is not as a network wants it, one clause for each tensor."""
    for name, (dtype, shape) in wanted.items():
        if name not in found:
            yield f"{name} is missing"
        elif (found[name].dtype, found[name].shape) != (dtype, shape):
            yield f"{name} is {found[name]} where {dtype} {list(shape)} is expected"
    for name in found:
        if name not in wanted:
            yield f"there is no {shown(name)} in it"


def check_tensors(found: Mapping[str, Stored], wanted: Wanted, what: str) -> None:
    """Raise ``DataError``, which begins with ``what``, for tensors that are not those of a network."""
    wrong = list(differences(found, wanted))
    if wrong:
        more = f"; and {len(wrong) - FEW:,} more" if len(wrong) > FEW else ""
        raise DataError(f"{what} ({'; '.join(wrong[:FEW])}{more})")
