# SPDX-License-Identifier: Apache-2.0
"""What a safetensors file says of itself, read before a tensor is: dtypes and shapes, held against those of a network.

The library checks that the tensors fill the file, so whoever loads it takes no more memory than it has bytes. Nothing
here imports torch, and only the header is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import check_regular, one_line, shown

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype, as safetensors spells it, and shape."""
FEW = 3
"""So many names stand in a sentence."""


def read_header(path: Path, mend: str) -> Tensors:
    """Every tensor of a file. Raises ``DataError`` for what is no whole file of tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path, os.stat(path).st_mode)
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or one_line(error)}; {mend}") from None
    except (SafetensorError, MemoryError) as error:  # more bytes than can be mapped
        raise DataError(f"{path}: not a safetensors file ({one_line(error)}); {mend}") from None


def check_tensors(found: Tensors, wanted: Tensors, what: str) -> None:
    """Raise ``DataError``, which begins with ``what``, for tensors that are not those of a network."""
    wrong = []
    for name in dict.fromkeys((*wanted, *found)):
        if name not in found:
            wrong.append(f"{name} is missing")
        elif name not in wanted:
            wrong.append(f"there is no {shown(name)} in it")
        elif found[name] != wanted[name]:
            is_there, expected = (f"{dtype} {list(shape)}" for dtype, shape in (found[name], wanted[name]))
            wrong.append(f"{name} is {is_there} where {expected} is expected")
    if wrong:
        more = f"; and {len(wrong) - FEW:,} more" if len(wrong) > FEW else ""
        raise DataError(f"{what} ({'; '.join(wrong[:FEW])}{more})")
