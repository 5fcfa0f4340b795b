# SPDX-License-Identifier: Apache-2.0
"""What a disk, a stranger or an editor can do to a file, as pure functions over its bytes or its JSON.

Damage that a hash would notice gets past it with ``sealed``: whoever writes a hostile file writes its hash as well.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value inside a JSON value."""

NASTY: dict[str, str] = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "-1": "-1",
    "0": "0",
    "1": "1",
    "1.5": "1.5",
    "1e300": "1e300",
    "2**31": str(2**31),
    "2**63": str(2**63),
    "10**15": str(10**15),
    "10**400": "1" + "0" * 400,
    "10**5000": "1" + "0" * 5000,
    "empty text": '""',
    "upward": '"../x"',
    "absolute": '"/etc/passwd"',
    "null character": r'"\u0000"',
    "clear screen": r'"\u001b[2J"',
    "line end": r'"a\nb"',
    "right to left": '"\u202egnp.exe"',
    "half a pair": r'"\ud800"',
    "number as text": '"1"',
    "long text": '"' + "x" * 100_000 + '"',
    "object": "{}",
    "list": "[]",
    "object with a key": '{"a": 1}',
    "list of one": "[1]",
    "list of lists": "[[[[]]]]",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 2_000 + "1" + "}" * 2_000,
    "null": "null",
    "true": "true",
    "false": "false",
}
"""Name of a value that no reader hopes for -> its JSON, or what some take for JSON."""


@dataclass(frozen=True)
class Damage:
    """A damaged file: what was done to it, and what it is now."""

    what: str
    data: bytes = field(repr=False)


def flip(data: bytes, bit: int) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def overwrite(data: bytes, at: int, more: bytes) -> bytes:
    """Other bytes in a place, the length as it was."""
    return (data[:at] + more + data[at + len(more) :])[: len(data)]


def swap(data: bytes, one: int, other: int, size: int) -> bytes:
    """Two ranges of ``size`` bytes change places; as far as they do not overlap."""
    one, other = sorted((one, other))
    size = min(size, other - one, len(data) - other)
    middle = data[one + size : other]
    return data[:one] + data[other : other + size] + middle + data[one : one + size] + data[other + size :]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where values stand inside a JSON value, itself included."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from places(part, (*at, key))


def get(value: Any, place: Place) -> Any:
    """The value in a place."""
    for key in place:
        value = value[key]
    return value


def changed(value: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A JSON value in which the value in one place is another."""
    if not place:
        return change(value)
    key, *rest = place
    whole: Any = dict(value) if isinstance(value, dict) else list(value)
    whole[key] = changed(value[key], tuple(rest), change)
    return whole


def plant(value: Any, place: Place, text: str) -> bytes:
    """JSON in which ``text``, whatever it is, stands in a place."""
    mark = "planted-0c7a"
    return json.dumps(changed(value, place, lambda _: mark)).replace(f'"{mark}"', text).encode("utf-8", "surrogatepass")


def without(value: Any, place: Place) -> Any:
    """A JSON value without the key or item in a place."""

    def removed(whole: Any) -> Any:
        kept: Any = dict(whole) if isinstance(whole, dict) else list(whole)
        del kept[place[-1]]
        return kept

    return changed(value, place[:-1], removed)


def doubled(value: Any, place: Place) -> bytes:
    """JSON in which the key in a place occurs twice; the item of a list, too."""
    parent, key = get(value, place[:-1]), place[-1]
    inner = json.dumps(get(value, place))
    if isinstance(parent, list):
        return plant(value, place, f"{inner}, {inner}")
    return plant(value, place, f"{inner}, {json.dumps(key)}: {inner}")


def renamed(value: Any, place: Place, key: str) -> Any:
    """A JSON value in which the key in a place is another."""
    return changed(
        value, place[:-1], lambda whole: {key if name == place[-1] else name: part for name, part in whole.items()}
    )


def sealed(data: bytes, seal: Callable[[Any], dict[str, str]]) -> bytes:
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


def byte_damages(data: bytes) -> st.SearchStrategy[Damage]:
    """Flips, cuts, additions, other bytes and swaps, anywhere."""
    offsets = st.integers(0, len(data) - 1)
    words = st.sampled_from((b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0"))
    other = st.tuples(offsets, st.one_of(words, st.binary(min_size=1, max_size=16)))
    ranges = st.tuples(offsets, offsets, st.integers(1, max(1, len(data) // 2)))
    return st.one_of(
        st.integers(0, 8 * len(data) - 1).map(lambda bit: Damage(f"bit {bit} flipped", flip(data, bit))),
        offsets.map(lambda size: Damage(f"cut to {size} bytes", data[:size])),
        st.binary(min_size=1, max_size=64).map(lambda more: Damage(f"{more!r} added", data + more)),
        other.map(lambda drawn: Damage(f"{drawn[1]!r} at {drawn[0]}", overwrite(data, *drawn))),
        ranges.map(lambda drawn: Damage(f"ranges {drawn} swapped", swap(data, *drawn))),
    )


def json_damages(
    value: Any, seal: Callable[[Any], dict[str, str]] | None = None, most: int = 2_000
) -> st.SearchStrategy[Damage]:
    """Planted values, missing, doubled and renamed keys anywhere in a JSON value; with ``seal`` the hashes agree."""
    every = list(places(value))[:most]
    inner = st.sampled_from(every[1:])
    named = st.sampled_from([place for place in every if place and isinstance(place[-1], str)])

    def finish(what: str, data: bytes) -> Damage:
        return Damage(what, data if seal is None else sealed(data, seal))

    def planted(drawn: tuple[Place, str]) -> Damage:
        return finish(f"{drawn[1]} at {drawn[0]}", plant(value, drawn[0], NASTY[drawn[1]]))

    return st.one_of(
        st.tuples(st.sampled_from(every), st.sampled_from(list(NASTY))).map(planted),
        st.tuples(inner, st.sampled_from(list(NASTY))).map(planted),
        inner.map(lambda place: finish(f"{place} removed", json.dumps(without(value, place)).encode())),
        inner.map(lambda place: finish(f"{place} twice", doubled(value, place))),
        st.tuples(named, st.text(max_size=20)).map(
            lambda drawn: finish(
                f"{drawn[0]} renamed {drawn[1]!r}",
                json.dumps(renamed(value, *drawn)).encode(),
            )
        ),
        st.tuples(inner, inner).map(
            lambda drawn: finish(
                f"{drawn[0]} is {drawn[1]}",
                json.dumps(changed(value, drawn[0], lambda _: get(value, drawn[1]))).encode(),
            )
        ),
    )


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """What removes a file and makes something else of its name."""

    def replace(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return replace


def hole(path: Path) -> None:
    """A terabyte of zeros that takes no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 40)


REPLACEMENTS: dict[str, Callable[[Path], None]] = {
    "a named pipe": in_its_place(os.mkfifo),
    "a directory": in_its_place(Path.mkdir),
    "a link to itself": in_its_place(lambda path: path.symlink_to(path.name)),
    "a device": in_its_place(lambda path: path.symlink_to("/dev/zero")),
    "an empty file": in_its_place(Path.touch),
    "nothing": in_its_place(lambda path: None),
    "a terabyte of zeros": in_its_place(hole),
}
"""What may lie in a file's place -> how it is put there."""


def exchange(one: Path, other: Path) -> None:
    """Two files change places."""
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
