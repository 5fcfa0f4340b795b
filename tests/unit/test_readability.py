# SPDX-License-Identifier: Apache-2.0
"""Names and statements that a stranger understands: few vague names, few functions named by a participle or a
preposition, few statements with two or more comprehensions or conditions, in the syntax trees of all files.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ["harness", "preprocessing", "padless", "benchmarks"]

VAGUE_NAME = re.compile(
    r"above|after|again|ahead|all|alone|another|answered|any|apart|armed|asked|bare|before|behind|below|beside|"
    r"between|both|broad|called|coming|counted|crew|cut|decided|done|drawn|dropped|each|every|far|few|fewest|"
    r"foreign|found|fresh|full|given|going|gone|got|heard|held|here|home|how|inside|its|kept|known|left|looked|"
    r"lost|made|many|meant|mend|mends|mine|missing|most|named|narrow|near|now|odd|of|once|one|ones|other|others|"
    r"ours|outside|over|own|piece|place|plain|present|rest|said|same|say|seen|sent|settle|settled|several|shaped|"
    r"shown|sieve|since|some|soon|spelled|spelt|stored|stuff|taken|talk|tell|their|then|there|thing|things|"
    r"together|told|unknown|waiting|what|when|where|which|who|whole|whose|why|within|written|wrote|yet"
)
"""Words that, alone, say neither what a value is nor what a function does."""
PREPOSITION_OR_PARTICIPLE = re.compile(
    r"[a-z]+ed|after|again|alone|apart|before|beside|cut|done|drawn|found|from|given|heard|held|in|kept|known|lost|made|"
    r"meant|of|over|said|seen|sent|shown|taken|told|under|within"
)
EXPRESSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.NamedExpr, ast.Lambda)
CODE_LIMITS = {"vague": 0.005, "participle": 0.03, "dense": 0.003}
TEST_LIMITS = {"vague": 0.01}
MAX_SHARED_NAMES = 20


def parse_files(names: Iterable[str]) -> dict[str, ast.Module]:
    """Path below the root -> the syntax tree of each Python file of these files and folders."""
    tree_by_path = {}
    for name in names:
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree_by_path[str(file.relative_to(ROOT))] = ast.parse(file.read_text())
    return tree_by_path


def bound_name(node: ast.AST) -> str | None:
    """The name that a definition, a parameter or an assignment binds."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return None


def is_vague(name: str) -> bool:
    """Whether it is a single word that says nothing of what it names."""
    return bool(VAGUE_NAME.fullmatch(name.strip("_").lower()))


def is_named_by_participle(name: str) -> bool:
    """Whether the first word of a function's name is a participle or a preposition."""
    return bool(PREPOSITION_OR_PARTICIPLE.fullmatch(name.strip("_").split("_")[0]))


def is_dense(statement: ast.stmt) -> bool:
    """Whether a simple statement holds two or more comprehensions, conditions, lambdas or walruses."""
    return sum(isinstance(inner, EXPRESSIONS) for inner in ast.walk(statement)) >= 2


def count_readability(tree_by_path: dict[str, ast.Module]) -> Iterator[tuple[str, bool, str]]:
    """Of each name, function and statement: the kind of count, whether it is hard to read, and where it is."""
    for path, tree in tree_by_path.items():
        for node in ast.walk(tree):
            name = bound_name(node)
            if name and not name.startswith("__"):
                yield "vague", is_vague(name), f"{path}: {name}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield "participle", is_named_by_participle(node.name), f"{path}:{node.lineno}: {node.name}"
            if isinstance(node, ast.stmt) and not hasattr(node, "body") and not is_docstring(node):
                yield "dense", is_dense(node), f"{path}:{node.lineno}"


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a constant alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize(("folders", "limits"), [(CODE, CODE_LIMITS), (["tests"], TEST_LIMITS)])
def test_names_and_statements_are_plain(folders: list[str], limits: dict[str, float]) -> None:
    """The shares stay below the limits; a failure lists where to look."""
    counts: dict[str, list[str | None]] = defaultdict(list)
    for kind, is_hard, location in count_readability(parse_files(folders)):
        counts[kind].append(location if is_hard else None)
    for kind, limit in limits.items():
        hard = [location for location in counts[kind] if location]
        assert len(hard) <= limit * len(counts[kind]), f"{kind}: {len(hard)} of {len(counts[kind])}: {hard[:50]}"


def test_one_name_is_defined_in_one_file() -> None:
    """Few top-level names are defined in two or more files."""
    paths_by_name = defaultdict(set)
    for path, tree in parse_files(CODE).items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in ("main", "__getattr__"):
                paths_by_name[node.name].add(path)
    shared = {name: sorted(paths) for name, paths in paths_by_name.items() if len(paths) > 1}
    assert len(shared) <= MAX_SHARED_NAMES, shared


def test_what_is_hard_to_read_is_counted() -> None:
    """The measure finds an example of each kind, and nothing in plain code."""
    hard = "def told(its):\n    found = [x if x else 0 for x in its]\n"
    counts = list(count_readability({"hard.py": ast.parse(hard)}))
    assert {kind for kind, is_hard, _ in counts if is_hard} == {"vague", "participle", "dense"}
    plain = "def read_rows(path):\n    rows = list(path)\n    return rows\n"
    assert not any(is_hard for _, is_hard, _ in count_readability({"plain.py": ast.parse(plain)}))
