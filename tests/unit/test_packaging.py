# SPDX-License-Identifier: Apache-2.0
"""Files of a wheel, its dependencies and their licences, and its scripts."""

from __future__ import annotations

import ast
import re
import sys

import pytest

import padless
from harness.__main__ import main as harness
from preprocessing.base import configuration
from preprocessing.base.installed import load
from tests.licences import COPYLEFT, FAMILIES, PAGE, families_of, rows_of
from tests.requirements import CORE, groups_of, requirements
from tests.unit.test_architecture import ROOT, all_imports, brings, is_ours, own_modules

pytestmark = pytest.mark.thorough

DISTRIBUTION_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "stop_words": "stop-words"}
BY_NAME = {"harness.library.estimator", "harness.model.fused"}
"""Modules that need an extra, or much time: others load them by their name, where they are used."""
NOT_FOR_TRAINING = {"nltk", "simplemma", "stop_words", "matplotlib", "sklearn"}


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_has_every_folder_with_code_and_the_recipes(project) -> None:
    packages = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in own_modules().items()}
    packages |= {"padless-stubs", *(f"padless_configs.{kind}" for kind in configuration.KINDS)}
    settings = project["tool"]["setuptools"]
    assert set(settings["packages"]) == packages
    named = set()
    for package, globs in settings["package-data"].items():
        first, *rest = package.split(".")
        folder = ROOT.joinpath(settings["package-dir"].get(first, first), *rest)
        named |= {path for glob in globs for path in folder.glob(glob)}
    everything = [path for folder in ("configs", "harness", "preprocessing") for path in (ROOT / folder).rglob("*.*")]
    assert {path for path in everything if path.suffix not in (".py", ".pyc")} == named


def distributions(roots: set[str]) -> set[str]:
    return {DISTRIBUTION_OF.get(root, root.replace("_", "-")) for root in roots - sys.stdlib_module_names}


def test_what_the_code_imports_is_declared_and_what_everybody_installs_is_imported() -> None:
    groups = groups_of(requirements())
    imported = distributions({one.target for one in all_imports() if not is_ours(one.target)} - {"padless"})
    assert {name for name in imported if set(groups[name]) <= {"dev", "docs", "bench"}} == set()
    text = "".join(path.read_text() for path in own_modules().values())
    core = {name for name in groups if CORE in groups[name]} - imported
    assert [name for name in core if f'"{name.replace("-", "_")}' not in text] == []  # loaded by its name


def test_an_import_brings_neither_an_extra_nor_what_training_does_not_need() -> None:
    """A module that others import at the top must not need an extra: extras are imported in functions."""
    along = set().union(*brings(one for one in all_imports() if one.source not in BY_NAME).values())
    assert not any(one.target in BY_NAME for one in all_imports())
    assert along & NOT_FOR_TRAINING == set()
    assert distributions(along) - {line.name for line in requirements() if line.group == CORE} == set()


def test_licences_of_the_page_are_those_of_the_metadata() -> None:
    """Metadata differs between versions: at least one licence is common, and copyleft is the same."""
    rows = rows_of(PAGE.read_text())
    assert {name: groups for name, (_, _, groups) in rows.items()} == groups_of(requirements())
    for name, (licences, copyleft, groups) in rows.items():
        assert set(licences) <= set(FAMILIES), name
        assert copyleft == bool(COPYLEFT & set(licences)), name
        assert not (copyleft and CORE in groups), f"everybody installs {name}"
        families = families_of(name)
        if families is not None:
            assert set(licences) & set(families), f"{name} says {families}, docs/security.md {licences}"
            assert COPYLEFT & set(licences) == COPYLEFT & set(families), f"{name} says {families}"


def test_what_type_checkers_read_is_what_there_is() -> None:
    stub, module = (ast.parse((ROOT / name).read_text()) for name in ("harness/stubs/__init__.pyi", "padless.py"))
    typed, real = (
        {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)} for tree in (stub, module)
    )
    for name, node in real.items():
        assert ast.dump(typed[name].args) == ast.dump(node.args)
        assert ast.dump(typed[name].returns) == ast.dump(node.returns)
    exported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    del typed["__getattr__"]
    assert (exported - {None}) | set(typed) | {"__version__"} == set(padless.__all__)


def test_scripts_and_version_are_what_the_project_says(project, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = {module.partition(".")[0]: name for name, module in project["project"]["scripts"].items()}
    assert scripts == {"harness": "padless"}
    assert all(callable(load(name)) for name in project["project"]["scripts"].values())
    assert load(project["tool"]["setuptools"]["dynamic"]["version"]["attr"].replace(".VERSION", ":VERSION"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", padless.__version__)
    assert harness(["--version"]) == 0
    assert capsys.readouterr().out == f"padless {padless.__version__}\n"
