# SPDX-License-Identifier: Apache-2.0
"""What a wheel brings, and what it is called by: scripts, version, packages, data, completion, no needless import."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import padless
from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli, config_files, installed
from preprocessing.base.installed import load
from tests.requirements import CORE, groups_of, requirements
from tests.unit.test_architecture import DISTRIBUTION_OF, ROOT, all_imports, brings, imports_of, own_modules
from tests.unit.test_documentation import DOCUMENTS, unknown_words

pytestmark = pytest.mark.thorough

NOT_FOR_TRAINING = {"nltk", "simplemma", "stop_words", "matplotlib", "sklearn"}
NOT_IMPORTED = {
    "s3fs": "fsspec opens s3:// with it",
    "tensorboard": "torch.utils.tensorboard needs it",
    "mkdocs-material": "mkdocs.yml names the theme",
    "mkdocstrings-python": "mkdocs.yml names the plugin",
    **dict.fromkeys(("mypy", "ruff"), "the Makefile runs it"),
    **dict.fromkeys(("pandas-stubs", "types-psutil", "types-pyyaml"), "mypy reads it"),
    **dict.fromkeys(("pytest-timeout", "pytest-xdist"), "pytest loads it"),
}
"""Distributions that are needed though no file names what they bring, and why."""
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"^[!$]? ?(padless(?:-preprocess)?) (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_has_every_folder_with_code_and_the_recipes(project) -> None:
    packages = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in own_modules().items()}
    packages |= {"padless-stubs", *(f"padless_configs.{kind}" for kind in config_files.KINDS)}
    settings = project["tool"]["setuptools"]
    assert set(settings["packages"]) == packages
    assert settings["package-dir"] == {"padless-stubs": "harness/stubs", "padless_configs": "configs"}
    named = set()
    for package, globs in settings["package-data"].items():
        first, *rest = package.split(".")
        folder = ROOT.joinpath(settings["package-dir"].get(first, first), *rest)
        named |= {path for glob in globs for path in folder.glob(glob)}
    everything = [path for folder in ("configs", "harness", "preprocessing") for path in (ROOT / folder).rglob("*.*")]
    assert {path for path in everything if path.suffix not in (".py", ".pyc")} == named


def named_in(paths: dict[str, Path]) -> set[str]:
    """The distributions that files import, or name as a string for what imports them (``importorskip``)."""
    found = set()
    for name, path in paths.items():
        text = path.read_text()
        roots = {one.target.partition(".")[0] for one in imports_of(name, text, ())}
        constants = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        roots |= {value.partition(".")[0] for value in constants if isinstance(value, str)}
        found |= {DISTRIBUTION_OF.get(root, root.replace("_", "-")) for root in roots}
    return found


def imported_in(paths: dict[str, Path]) -> set[str]:
    """The distributions that files import; neither Python's own modules nor ours."""
    ours = {"benchmarks", "harness", "preprocessing", "padless", "tests", "docs", "build_backend"}
    roots = {
        one.target.partition(".")[0] for name, path in paths.items() for one in imports_of(name, path.read_text(), ())
    }
    return {DISTRIBUTION_OF.get(root, root.replace("_", "-")) for root in roots - ours - sys.stdlib_module_names}


@pytest.mark.thorough
def test_every_dependency_is_needed_where_it_stands() -> None:
    """The code imports or names what everybody installs, and names what an extra brings; the rest has a reason."""
    others = {str(path): path for folder in ("tests", "docs") for path in (ROOT / folder).rglob("*.py")}
    others.pop(str(Path(__file__).resolve()))  # the names above
    code = own_modules()
    imported = imported_in(code)
    named = named_in({**code, **own_modules(ROOT, ["benchmarks"])})
    tested = named | named_in(others)
    lines = requirements()
    assert {line.name for line in lines if line.group == CORE} - imported - named_in(code) == set()
    extras = {line.name for line in lines if line.group not in (CORE, "dev", "docs")}
    assert extras - named - tested - set(NOT_IMPORTED) == set()
    assert {line.name for line in lines} - tested - set(NOT_IMPORTED) == set()
    assert {name for name in NOT_IMPORTED if name in imported} | (NOT_IMPORTED.keys() - groups_of(lines)) == set()


def test_what_users_run_needs_nothing_that_only_developers_have() -> None:
    groups = groups_of(requirements())
    assert {name for name in imported_in(own_modules()) if set(groups[name]) <= {"dev"}} == set()


def test_what_is_needed_without_an_extra_is_imported_without_one() -> None:
    """A module that others import at their top may need no extra: all those are imported late."""
    core = {line.name for line in requirements() if line.group == CORE}
    along = {
        DISTRIBUTION_OF.get(root, root.replace("_", "-")) for found in brings(all_imports()).values() for root in found
    }
    assert along - core - {name.replace("_", "-") for name in sys.stdlib_module_names} == set()


def test_what_type_checkers_read_is_what_there_is() -> None:
    stub = ast.parse((ROOT / "harness/stubs/__init__.pyi").read_text())
    module = ast.parse((ROOT / "padless.py").read_text())
    typed = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    real = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    for name, node in real.items():
        assert ast.dump(typed[name].args) == ast.dump(node.args)
        assert ast.dump(typed[name].returns) == ast.dump(node.returns)
    exported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert (exported - {None}) | set(typed) | {"__version__"} == set(padless.__all__)


def test_scripts_and_version_are_what_the_project_says(project) -> None:
    scripts = {module.partition(".")[0]: name for name, module in project["project"]["scripts"].items()}
    assert scripts == installed.SCRIPTS
    assert all(callable(load(name)) for name in project["project"]["scripts"].values())
    assert load(project["tool"]["setuptools"]["dynamic"]["version"]["attr"].replace(".VERSION", ":VERSION"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", padless.__version__)


@pytest.mark.parametrize("main", [harness, preprocessing])
def test_version_is_told(capsys: pytest.CaptureFixture[str], main) -> None:
    for word in ("--version", "-V", "version"):
        assert main([word]) == 0
        assert capsys.readouterr().out == f"padless {padless.__version__}\n"


def test_whoever_types_padless_reads_padless(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/padless"])
    harness([])
    assert capsys.readouterr().out.startswith("usage: padless COMMAND [options]")
    with pytest.raises(SystemExit):
        harness(["predict", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: padless predict [")
    assert '\n  padless predict --run runs/mine "a fine film"\n' in shown
    assert cli.run(harness, ["prepare"]) == 2
    said = "error: padless: prepare: no such command; it is padless-preprocess run here\n"
    assert capsys.readouterr().err == said
    assert (
        installed.as_typed("python -m harness.train; python -m harness plan") == "python -m harness.train; padless plan"
    )
    monkeypatch.setattr(sys, "argv", ["harness/__main__.py"])
    assert installed.as_typed("python -m harness plan") == "python -m harness plan"


def test_train_is_another_word_for_launch(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("launch", "train"):
        with pytest.raises(SystemExit):
            harness([word, "--help"])
        assert "--num_processes 2 --data data/mine" in capsys.readouterr().out


def test_nothing_that_training_does_not_need_comes_with_an_import() -> None:
    bringing = {name: found & NOT_FOR_TRAINING for name, found in brings(all_imports()).items()}
    assert {name: found for name, found in bringing.items() if found} == {}


@pytest.mark.processes
@pytest.mark.skipif(importlib.util.find_spec("argcomplete") is None, reason="needs argcomplete")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("padless pre", {"predict"}),
        ("padless checkpoint ", {"list", "verify", "diff"}),
        ("padless train --num_processes 2 --optim.warm", {"--optim.warmup"}),
        ("padless plan --world", {"--world_size"}),
        ("padless plan --precision b", {"bf16"}),
        ("padless plan --config imdb", {"imdb", "imdb-gpu", "imdb-pretrained", "imdb-quick", "imdb-unlabelled"}),
    ],
)
def test_a_shell_completes_commands_keys_and_values(tmp_path: Path, line: str, offered: set[str]) -> None:
    answer = tmp_path / "answer"
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    more = {"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n", "PYTHONPATH": str(ROOT)}
    script = "from harness.__main__ import script; import sys; sys.argv[0] = 'padless'; script()"
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, **shell, **more}, timeout=60, check=False
    )
    assert {word.strip() for word in answer.read_text().splitlines()} == offered


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_script_in_a_document_takes_its_options(document: str) -> None:
    blocks = "".join(FENCE.findall((ROOT / document).read_text())).replace("\\\n", " ")
    packages = {name: package for package, name in installed.SCRIPTS.items()}
    for name, rest in SCRIPT.findall(blocks):
        words = shlex.split(rest, comments=True)
        words = ["launch" if word == "train" else word for word in words]
        if words[0] != "--version":
            assert unknown_words(packages[name], words) == [], f"{document}: {name} {rest}"
