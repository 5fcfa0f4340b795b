# SPDX-License-Identifier: Apache-2.0
"""What Arrow answers in more than one form, in one."""

from __future__ import annotations

import pyarrow as pa


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece. Arrow's ``combine_chunks`` alone may return a chunked array again."""
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not isinstance(combined, pa.ChunkedArray):
        return combined
    return combined.chunk(0) if combined.num_chunks else pa.array([], combined.type)
