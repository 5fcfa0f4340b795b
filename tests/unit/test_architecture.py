# SPDX-License-Identifier: Apache-2.0
"""ARCHITECTURE.md: which package may import which, checked for every import, also inside functions, and the ways of
values through the files; dependencies and their licences; public names.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import padless
from tests.helpers.commands import ROOT

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
TABLE = ARCHITECTURE.partition("\n## Layers\n")[2].partition("\n## ")[0]
WAYS = dict(re.findall(r"^\*\*(.*?)\*\*(.*?)(?=^\*\*|^## )", ARCHITECTURE, re.MULTILINE | re.DOTALL))


def folders_of(row: str) -> list[str]:
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", row)
    return [path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in paths]


LAYERS = [folders_of(row) for row in reversed(re.findall(r"^\|.*`\w+/.*\|$", TABLE, re.MULTILINE))]
"""Folders and files of each layer, the lowest first. One imports itself, lower layers and its ``NEIGHBOURS``."""
PACKAGES = ("harness", "padless", "preprocessing")
NEIGHBOURS = {("preprocessing.config", "preprocessing.labels")}


@functools.cache
def all_modules() -> dict[str, Path]:
    """Dotted name -> file of every module of our packages."""
    path_by_module = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        path_by_module[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return path_by_module


@functools.cache
def all_imports() -> set[tuple[str, str]]:
    """A module and what it imports, anywhere: one of our modules, or the root of another package."""
    imports = set()
    for name, path in all_modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            targets = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [member if member in all_modules() else node.module for member in members]
            imports |= {(name, target if root_of(target) in PACKAGES else root_of(target)) for target in targets}
    return imports


def folder_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def root_of(module: str) -> str:
    return module.partition(".")[0]


def test_no_import_goes_upward() -> None:
    layer_by_folder = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
    assert {folder_of(name) for name in all_modules()} - {*PACKAGES} == set(layer_by_folder)
    for module, target in all_imports():
        pair = folder, imported = folder_of(module), folder_of(target)
        if root_of(target) in PACKAGES and module != "padless" and folder != imported and pair not in NEIGHBOURS:
            assert layer_by_folder.get(imported, -1) < layer_by_folder.get(folder, -1), (module, target)


def test_no_files_import_each_other_in_a_circle() -> None:
    imports_by_module: dict[str, set[str]] = {}
    for module, target in all_imports():
        if root_of(target) in PACKAGES and target != module:
            imports_by_module.setdefault(module, set()).add(target)
    graphlib.TopologicalSorter(imports_by_module).prepare()  # raises an error that names a circle


def test_preprocessing_imports_no_torch_and_nothing_the_benchmarks_or_tests() -> None:
    for module, target in all_imports():
        of_training = {"torch", "accelerate"} if root_of(module) == "preprocessing" else set()
        assert root_of(target) not in {"benchmarks", "tests", *of_training}, (module, target)


@pytest.mark.parametrize(
    ("way", "max_files", "value"),
    [
        ("A key", 8, r"\.weight_decay\b"),
        ("An option of a CSV", 7, r"(?<!shlex)\.quote\b"),
        ("A stop signal to a checkpoint", 7, r"\.stop_reason\b"),
        ("A figure", 6, r'"roc_auc"'),
        ("A pooling", 4, "MaximumAndMean"),
    ],
)
def test_a_value_passes_the_files_of_its_way_and_no_others(way: str, max_files: int, value: str) -> None:
    places = re.findall(r"`([\w/]+\.py):(?:\w+\.)?(\w+)`", WAYS[way])
    assert 0 < len({path for path, _ in places}) <= max_files
    for path, name in places:
        assert re.search(rf"^ *(def |class )?{name}\b", (ROOT / path).read_text(), re.MULTILINE), f"{path}: {name}"
    files_with_value = {path for path in all_modules().values() if re.search(value, path.read_text())}
    assert files_with_value <= {ROOT / path for path, _ in places}


DISTRIBUTION_BY_IMPORT = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


def names_of(lines: Iterable[str]) -> set[str]:
    """The distributions that lines of requirements name."""
    return {re.split("[^a-z0-9-]", line)[0] for line in lines}


def test_what_the_code_imports_is_declared_and_what_everybody_installs_is_imported_and_permissive() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, extras = names_of(project["dependencies"]), project["optional-dependencies"]
    optional = set().union(*(names_of(extras[name]) for name in extras if name not in {"bench", "dev", "docs"}))
    roots = {root_of(target) for _, target in all_imports()} - sys.stdlib_module_names - {*PACKAGES}
    imported = {DISTRIBUTION_BY_IMPORT.get(root, root.replace("_", "-")) for root in roots}
    assert imported <= core | optional
    sources = "".join(path.read_text() for path in all_modules().values())
    loaded_by_name = {name for name in core if f'"{name.replace("-", "_")}' in sources}
    assert core <= imported | loaded_by_name
    for name in core:
        metadata = importlib.metadata.metadata(name)
        licences = [metadata.get("License-Expression"), *metadata.get_all("Classifier", [])]
        assert not re.search("GPL|MPL|EPL|Mozilla|GNU", str(licences)), name


def test_every_public_name_is_typed_and_imported_when_it_is_used() -> None:
    tree = ast.parse((ROOT / "padless/__init__.py").read_text())
    (typed,) = (ast.unparse(node.body) for node in tree.body if isinstance(node, ast.If))
    assert set(padless.ORIGIN_BY_NAME) == set(padless.__all__)
    for name in padless.ORIGIN_BY_NAME:
        assert re.search(rf"\b{name}\b", typed), name
        assert getattr(padless, name), name
