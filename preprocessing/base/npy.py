# SPDX-License-Identifier: Apache-2.0
"""NumPy's files, written so that a full disk is an error of the system like any other."""

from __future__ import annotations

from typing import IO

import numpy as np


class Plain:
    """A file as NumPy must see it to write through Python: into a real one it writes by itself, and says of a full disk
    only that fewer bytes were written than asked for.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """``file`` is open for writing."""
        self.write = file.write


def save(file: IO[bytes], values: np.ndarray) -> None:
    """Write an array in the ``.npy`` format, the same bytes as ``np.save``. Raises ``OSError`` with its number."""
    np.save(Plain(file), values)
