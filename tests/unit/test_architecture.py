# SPDX-License-Identifier: Apache-2.0
"""Which package may import which (ARCHITECTURE.md), checked for every import, also inside functions; files of a wheel,
its dependencies and their licences, and its scripts.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import padless
from tests.helpers.commands import ROOT
from tests.helpers.licences import COPYLEFT, CORE, PAGE, groups_of, requirements, rows_of

TABLE = (ROOT / "ARCHITECTURE.md").read_text().partition("\n## Floors\n")[2].partition("\n## ")[0]


def rooms_of(row: str) -> list[str]:
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", row)
    return [path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in paths]


FLOORS = [rooms_of(row) for row in reversed(re.findall(r"^\|.*`\w+/.*\|$", TABLE, re.MULTILINE))]
"""Rooms from the ground up. A room imports itself and lower floors; a room beside it only as ``NEIGHBOURS`` says."""
PACKAGES = ("harness", "padless", "preprocessing")
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
    path_by_module = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        path_by_module[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return path_by_module


def imports_of(name: str, text: str, module_names: Iterable[str]) -> Iterator[Import]:
    """Every import of a module, with its line."""
    module_names = set(module_names)

    def visit(node: ast.AST, in_function_body: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            in_function = in_function_body or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            targets = []
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module and child.module != "__future__":
                for alias in child.names:
                    member = f"{child.module}.{alias.name}"
                    targets.append(member if member in module_names else child.module)
            for target in dict.fromkeys(targets):
                yield Import(
                    name,
                    target if is_ours(target) else target.partition(".")[0],
                    child.lineno,
                    in_function_body,
                    for_types,
                )
            yield from visit(child, in_function, for_types)

    yield from visit(ast.parse(text), False, False)


@functools.cache
def all_imports() -> list[Import]:
    modules = own_modules()
    return [statement for name, path in modules.items() for statement in imports_of(name, path.read_text(), modules)]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def test_no_import_goes_upward() -> None:
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {room_of(name) for name in own_modules()} - {*PACKAGES} == set(floor_of)
    for statement in all_imports():
        source_room, target_room = room_of(statement.source), room_of(statement.target)
        if source_room == "padless":
            continue
        if is_ours(target_room) and target_room != source_room and (source_room, target_room) not in NEIGHBOURS:
            assert floor_of.get(target_room, -1) < floor_of.get(source_room, -1), (
                f"{statement}: it stands above or beside it"
            )


def test_no_files_import_each_other_in_a_circle() -> None:
    edges = {}
    for statement in all_imports():
        if is_ours(statement.target) and statement.target != statement.source:
            edges.setdefault(statement.source, set()).add(statement.target)
    order = list(graphlib.TopologicalSorter(edges).static_order())  # which names a circle
    assert set(order) == set(edges).union(*edges.values())


def test_preprocessing_imports_neither_harness_nor_torch_and_nothing_the_benchmarks_or_tests() -> None:
    for statement in all_imports():
        root = statement.target.partition(".")[0]
        assert root not in {"benchmarks", "tests"}, statement
        assert not statement.source.startswith("preprocessing") or root not in {"harness", "torch", "accelerate"}, (
            statement
        )


DISTRIBUTION_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "stop_words": "stop-words"}


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def distributions(roots: set[str]) -> set[str]:
    return {DISTRIBUTION_OF.get(root, root.replace("_", "-")) for root in roots - sys.stdlib_module_names}


def test_what_the_code_imports_is_declared_and_what_everybody_installs_is_imported() -> None:
    groups = groups_of(requirements())
    imported = distributions(
        {statement.target for statement in all_imports() if not is_ours(statement.target)} - {"padless"}
    )
    assert {name for name in imported if set(groups[name]) <= {"dev", "docs", "bench"}} == set()
    text = "".join(path.read_text() for path in own_modules().values())
    core = {name for name in groups if CORE in groups[name]} - imported
    assert [name for name in core if f'"{name.replace("-", "_")}' not in text] == []  # loaded by its name


def test_the_page_names_the_licence_of_each_dependency_and_none_of_all_is_copyleft() -> None:
    rows = rows_of(PAGE.read_text())
    assert {name: groups for name, (_, _, groups) in rows.items()} == groups_of(requirements())
    for name, (licences, copyleft, groups) in rows.items():
        assert copyleft == bool(COPYLEFT & set(licences)), name
        assert not (copyleft and CORE in groups), f"everybody installs {name}"


def test_every_public_name_is_typed_and_imported_when_it_is_used() -> None:
    tree = ast.parse((ROOT / "padless/__init__.py").read_text())
    (typed,) = (ast.unparse(node.body) for node in tree.body if isinstance(node, ast.If))
    assert set(padless.ORIGIN_BY_NAME) == set(padless.__all__)
    for name in padless.ORIGIN_BY_NAME:
        assert re.search(rf"\b{name}\b", typed), name
        assert name == "__version__" or callable(getattr(padless, name)), name
