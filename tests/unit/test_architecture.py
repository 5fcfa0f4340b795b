# SPDX-License-Identifier: Apache-2.0
"""Which module may import what: harness → preprocessing and never back; collectives in one module; torch late."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "stop_words": "stop-words", "bs4": "beautifulsoup4"}
DISTRIBUTION_OF["streaming"] = "mosaicml-streaming"


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_preprocessing_imports_neither_harness_nor_torch() -> None:
    assert len(modules("preprocessing")) > 5
    for path in modules("preprocessing"):
        roots = {name.partition(".")[0] for name in imports(path)}
        assert not roots & {"harness", "torch", "accelerate"}, path


def test_only_one_module_imports_collectives() -> None:
    def uses_collectives(path: Path) -> bool:
        return any(name.startswith("torch.distributed") for name in imports(path))

    assert [path.name for path in modules("harness") if uses_collectives(path)] == ["distributed.py"]


@pytest.mark.parametrize("module", ["preprocessing.text", "preprocessing.pipeline", "preprocessing.shards"])
def test_preprocessing_runs_without_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    "module", ["harness.__main__", "harness.config", "harness.train", "harness.launcher", "harness.doctor"]
)
def test_help_and_mistakes_do_not_wait_for_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules or 'accelerate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False).returncode == 0


def test_every_import_is_declared() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}
    own = {"harness", "preprocessing", "tests"}
    for path in [*modules("harness"), *modules("preprocessing"), *modules("tests")]:
        for name in imports(path):
            root = name.partition(".")[0]
            if root not in sys.stdlib_module_names and root not in own:
                distribution = DISTRIBUTION_OF.get(root, root.replace("_", "-"))
                assert distribution in declared, f"{path} imports {root}, which pyproject.toml lacks"


def test_every_command_exists() -> None:
    from harness.__main__ import COMMANDS

    for name, (module, summary) in COMMANDS.items():
        tree = ast.parse((ROOT / "harness" / f"{module}.py").read_text())
        assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
        assert summary.endswith(".")


def test_every_configuration_file_is_valid() -> None:
    from harness.config import RunConfig
    from preprocessing import cli
    from preprocessing.config import PreprocessConfig

    for folder, config_class, extra in (("train", RunConfig, []), ("preprocess", PreprocessConfig, ["--output", "d"])):
        files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
        assert {"quickstart.yaml", "imdb.yaml", "seed.yaml"} <= {file.name for file in files}
        for file in files:
            config = cli.parse(config_class, ["--config", str(file), *extra], prog="test")
            assert isinstance(config, config_class)
