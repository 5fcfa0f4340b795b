# SPDX-License-Identifier: Apache-2.0
"""Nodes of an ONNX graph, one call each: the vocabulary in which the network is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Graph:
    """Nodes and constants as they are added; a value is known by its name."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    outputs: int = 0

    def constant(self, value: Any, dtype: Any = np.int64, name: str = "") -> str:
        """The name of a constant array; a name of its own for what is to be found again."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)
        return name

    def add(self, kind: str, inputs: Sequence[str], *, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Add a node; the name of what it gives, or the names of several. An input "" is none."""
        from onnx import helper

        found = [name or f"{kind.lower()}_{self.outputs}", *(f"{kind.lower()}_{self.outputs}_{n}" for n in range(1, 4))]
        self.outputs += 1
        names = found[:outputs]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"node_{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def cast(self, value: str, dtype: Any) -> str:
        """A value in another dtype."""
        from onnx import helper

        return str(self.add("Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def size(self, value: str, axis: int) -> str:
        """How long an axis of a value is, int64 ``[1]``."""
        return str(self.add("Shape", [value], start=axis, end=axis + 1))

    def count(self, size: str) -> str:
        """0, 1, … up to a size int64 ``[1]``, exclusive; int64 ``[size]``."""
        end = self.add("Squeeze", [size, self.constant([0])])
        return str(self.add("Range", [self.constant(0), end, self.constant(1)]))

    def part(self, value: str, start: int, end: int, axis: int) -> str:
        """A piece of a value along an axis."""
        given = [self.constant([number]) for number in (start, end, axis)]
        return str(self.add("Slice", [value, *given]))
