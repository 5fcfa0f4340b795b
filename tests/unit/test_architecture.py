# SPDX-License-Identifier: Apache-2.0
"""Which package may import which (ARCHITECTURE.md), checked for every import, also inside functions."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.commands import ROOT

TABLE = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Floors\n")[2].partition("\n## ")[0]
FLOORS = [
    [path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    for row in reversed(re.findall(r"^\|.*`\w+/.*\|$", TABLE, re.MULTILINE))
]
"""Rooms from the ground up. A room imports itself and lower floors; a room beside it only as ``NEIGHBOURS`` says."""
NEIGHBOURS = {("preprocessing.config", "preprocessing.labels")}


@dataclass(frozen=True)
class Import:
    """One name that a file imports: ``target`` is one of our modules, or a third-party root package."""

    source: str
    target: str
    line: int
    inside_function: bool
    for_types_only: bool


def own_modules() -> dict[str, Path]:
    """Dotted name -> file of every module of both packages."""
    found = {}
    for path in sorted(path for package in ("harness", "preprocessing") for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, text: str, known: Iterable[str]) -> Iterator[Import]:
    """Every import of a module, with its line."""
    known = set(known)

    def visit(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            in_function = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            targets = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module and child.module != "__future__":
                whole = [f"{child.module}.{alias.name}" for alias in child.names]
                targets = [one if one in known else child.module for one in whole]
            for target in dict.fromkeys(targets):
                ours = target.partition(".")[0] in ("harness", "preprocessing")
                root = target if ours else target.partition(".")[0]
                yield Import(name, root, child.lineno, inside, for_types)
            yield from visit(child, in_function, for_types)

    yield from visit(ast.parse(text), False, False)


@functools.cache
def all_imports() -> list[Import]:
    modules = own_modules()
    return [one for name, path in modules.items() for one in imports_of(name, path.read_text(), modules)]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("harness", "preprocessing")


def brings(found: Iterable[Import]) -> dict[str, set[str]]:
    """For each of our modules, all root packages that importing it imports."""
    edges = {}
    for one in found:
        if not one.inside_function and not one.for_types_only:
            edges.setdefault(one.source, set()).add(one.target)
    result = {}
    for start in edges:
        seen, waiting = {start}, [start]
        while waiting:
            new = edges.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        result[start] = {name for name in seen if not is_ours(name)}
    return result


def test_no_import_goes_upward() -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {room_of(name) for name in own_modules()} - {"harness", "preprocessing"} == set(floor_of)
    for one in all_imports():
        here, there = room_of(one.source), room_of(one.target)
        if is_ours(there) and there != here and (here, there) not in NEIGHBOURS:
            assert floor_of.get(there, -1) < floor_of.get(here, -1), f"{one}: it stands above or beside it"


def test_no_files_import_each_other_in_a_circle() -> None:
    edges = {}
    for one in all_imports():
        if is_ours(one.target) and one.target != one.source:
            edges.setdefault(one.source, set()).add(one.target)
    order = list(graphlib.TopologicalSorter(edges).static_order())  # which names a circle
    assert set(order) == set(edges).union(*edges.values())


def test_preprocessing_imports_neither_harness_nor_torch_and_nothing_the_benchmarks_or_tests() -> None:
    for one in all_imports():
        root = one.target.partition(".")[0]
        assert root not in {"benchmarks", "tests"}, one
        assert not one.source.startswith("preprocessing") or root not in {"harness", "torch", "accelerate"}, one
