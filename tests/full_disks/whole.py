# SPDX-License-Identifier: Apache-2.0
"""Whether a file that has its final name can be read to its end."""

from __future__ import annotations

import json
from pathlib import Path


def whole(path: Path) -> str | None:
    """What is wrong with a file that has its final name; None if it is whole."""
    try:
        check(path)
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def check(path: Path) -> None:
    """Read a file to its end. Raises anything for one that was cut short."""
    data = path.read_bytes()
    match path.suffix:
        case ".json":
            json.loads(data)
        case ".jsonl":
            assert not data or data.endswith(b"\n"), "a line is cut"
            [json.loads(line) for line in data.splitlines()]
        case ".arrow":
            import pyarrow as pa

            pa.ipc.open_file(data).read_all()
        case ".parquet":
            import pyarrow.parquet as pq

            pq.read_table(path)
        case ".npy":
            import numpy as np

            np.load(path)
        case ".safetensors":
            from safetensors.numpy import load_file

            load_file(path)
        case ".html":
            assert data.rstrip().endswith(b"</html>"), "cut"
        case ".png":
            assert data.endswith(b"IEND\xaeB`\x82"), "cut"
        case ".yaml" | ".md":
            assert data.endswith(b"\n"), "cut"
        case ".onnx":
            import onnx

            onnx.load_from_string(data)
