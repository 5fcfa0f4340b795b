# SPDX-License-Identifier: Apache-2.0
"""What a disk, a stranger or an editor can do to a file, as pure functions over its bytes or its JSON.

Damage that a hash would notice gets past it with ``reseal_json``: whoever writes a hostile file writes its hash too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

JsonPath = tuple[str | int, ...]
"""Keys and indices that lead to a value inside a JSON value."""

NASTY = (
    *("NaN", "1e999", "-1", "0", "1.5", str(2**63), str(10**15), "1" + "0" * 5000),
    *('""', '"../x"', r'"\u0000"', r'"\u001b[2J"', '"\u202egnp.exe"', r'"\ud800"', '"1"'),
    *("{}", "[]", '{"a": 1}', "null", "true", '"' + "x" * 100_000 + '"'),
    *("[" * 100_000 + "]" * 100_000, '{"a":' * 2_000 + "1" + "}" * 2_000),
)
"""Values that no reader hopes for, as JSON or what some take for JSON."""


@dataclass(frozen=True)
class Damage:
    """A damaged file: what was done to it, and what it is now."""

    kind: str
    data: bytes = field(repr=False)


def byte_damages(data: bytes) -> st.SearchStrategy[Damage]:
    """Flips, cuts, additions and other bytes, anywhere."""
    offsets = st.integers(0, len(data) - 1)
    other_bytes = st.one_of(st.sampled_from((b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f")), st.binary(min_size=1))

    def flip(at: int, bit: int) -> Damage:
        return Damage(f"bit {bit} of {at} flipped", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])

    def overwrite(at: int, more: bytes) -> Damage:
        return Damage(f"{more!r} at {at}", (data[:at] + more + data[at + len(more) :])[: len(data)])

    return st.one_of(
        st.builds(flip, offsets, st.integers(0, 7)),
        offsets.map(lambda size: Damage(f"cut to {size} bytes", data[:size])),
        st.binary(min_size=1, max_size=64).map(lambda more: Damage(f"{more!r} added", data + more)),
        st.builds(overwrite, offsets, other_bytes),
    )


def places(value: Any, at: JsonPath = ()) -> Iterator[JsonPath]:
    """Where values stand inside a JSON value, itself included."""
    yield at
    pairs = value.items() if isinstance(value, dict) else ()
    for key, part in enumerate(value) if isinstance(value, list) else pairs:
        yield from places(part, (*at, key))


def get(value: Any, path: JsonPath) -> Any:
    for key in path:
        value = value[key]
    return value


def plant(value: Any, path: JsonPath, text: str) -> bytes:
    """JSON in which ``text``, whatever it is, stands in a place."""
    mark, root = "planted-0c7a", [json.loads(json.dumps(value))]
    *parents, last = (0, *path)
    get(root, tuple(parents))[last] = mark
    return json.dumps(root[0]).replace(f'"{mark}"', text).encode("utf-8", "surrogatepass")


def without(value: Any, path: JsonPath) -> bytes:
    """JSON without the key or item in a place."""
    content = json.loads(json.dumps(value))
    del get(content, path[:-1])[path[-1]]
    return json.dumps(content).encode()


def reseal_json(data: bytes, seal: Callable[[Any], dict[str, str]]) -> bytes:
    """Changed JSON with hashes that agree: ``seal`` gives the right ones for its content, by their top-level key.

    What Python's reader cannot read, or ``seal`` cannot hash, stays as it is.
    """
    try:
        content = json.loads(data)
        right = seal(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return data
    for key, digest in right.items():
        if isinstance(content.get(key), str) and content[key]:
            data = data.replace(json.dumps(content[key]).encode(), json.dumps(digest).encode())
    return data


def json_damages(value: Any, seal: Callable[[Any], dict[str, str]] | None = None) -> st.SearchStrategy[Damage]:
    """Planted values, missing and exchanged parts anywhere in a JSON value; with ``seal`` the hashes agree."""
    inner = st.sampled_from(list(places(value))[1:2_000])
    changes = {
        "planted": st.builds(partial(plant, value), inner, st.sampled_from(NASTY)),
        "removed": inner.map(partial(without, value)),
        "copied": st.builds(lambda target, part: plant(value, target, json.dumps(get(value, part))), inner, inner),
    }

    def as_damage(kind: str, data: bytes) -> Damage:
        return Damage(kind, data if seal is None else reseal_json(data, seal))

    return st.one_of(damages.map(partial(as_damage, kind)) for kind, damages in changes.items())


def hole(path: Path) -> None:
    """A terabyte of zeros that takes no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "an empty file": Path.touch,
    "nothing": lambda path: None,
    "a terabyte of zeros": hole,
}
"""What may lie in a file's place -> how it is put there."""


def replace(path: Path, kind: str) -> None:
    """Remove a file, and make something else of its name."""
    path.unlink()
    REPLACEMENTS[kind](path)
