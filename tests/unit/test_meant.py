# SPDX-License-Identifier: Apache-2.0
"""Values that nobody means, for every number of every command's options: one sentence, or a reason to take them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from benchmarks.__main__ import COMMANDS as BENCHMARKS
from harness.__main__ import COMMANDS as HARNESS
from preprocessing.__main__ import COMMANDS as PREPROCESSING
from preprocessing.base import cli
from preprocessing.base.commands import Command
from preprocessing.base.errors import ConfigError, check_meant
from preprocessing.base.installed import load

WHOLE = (-1, 10**20)
REAL = (*WHOLE, math.nan, math.inf, -math.inf)
NEEDED = {"data": "d", "run": "r", "output": "o", "input": "i.csv"}
ALONE = {
    "harness.export.config:ExportConfig": {"output": "o"},
    "harness.inference.config:EvaluateConfig": {"input": "i.csv"},
    "harness.inference.config:LabelConfig": {"run": "r"},
}
"""What a command does not go without, beside the fields that have no default."""


def classes(commands: tuple[Command, ...]) -> Iterator[str]:
    """The configuration class of every command, also of those below others."""
    for command in commands:
        yield from classes(command.parts)
        yield from filter(None, (command.config, command.shared, *command.keys))


CLASSES = sorted(
    {*classes(HARNESS), *classes(PREPROCESSING), *classes(BENCHMARKS), "harness.inference.config:EvaluateConfig"}
)


def numeric(config_class: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key whose value is, or holds, a number; and its annotation."""
    hints = get_type_hints(config_class)
    for one in dataclasses.fields(config_class):
        kind = hints[one.name]
        if dataclasses.is_dataclass(kind):
            yield from numeric(kind, f"{prefix}{one.name}.")
        elif any(word in str(kind).replace("Point", "") for word in ("int", "float")) and str(kind)[7:14] != "Literal":
            yield prefix + one.name, str(kind)


def replaced(config: Any, key: str, kind: str, value: float) -> Any:
    """The configuration with one number in another one's place, which may be inside a list."""
    name, _, below = key.partition(".")
    if below:
        return dataclasses.replace(config, **{name: replaced(getattr(config, name), below, kind, value)})
    held: Any = {"positive": value} if "dict" in kind else (value, 0.9) if "tuple" in kind else value
    return dataclasses.replace(config, **{name: [value] if "list" in kind else held})


def keys() -> list[tuple[str, str, str]]:
    found = {}
    for name in CLASSES:
        for key, kind in numeric(load(name)):
            found[name, key] = kind
    return [(name, key, kind) for (name, key), kind in found.items()]


def test_every_number_is_looked_at() -> None:
    """The list is made of the classes; these must be on it."""
    there = {key for _, key, _ in keys()}
    assert {"model.hidden_size", "vocabulary.min_count", "optim.betas", "optim.class_weights", "shards.widths"} <= there
    assert {"part_mb", "rounds", "world_size", "samples", "dim", "timeout_s", "checkpoint.every_s", "seeds"} <= there
    assert len(there) > 70


@pytest.mark.parametrize("name", CLASSES)
def test_absurd_numbers_are_refused(name: str) -> None:
    config_class = load(name)
    fields = dataclasses.fields(config_class)
    missing = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
    usual = config_class(**{key: NEEDED[key] for key in missing} | ALONE.get(name, {}))
    for key, kind in numeric(config_class):
        for value in REAL if "float" in kind else WHOLE:
            with pytest.raises(ConfigError) as refused:
                check_meant(replaced(usual, key, kind, value))
            said = str(refused.value)
            assert key.rpartition(".")[2] in said, said
            assert len(said.splitlines()) == 1
            assert len(said) < 300


def test_a_command_line_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    from preprocessing.__main__ import main

    assert cli.run(main, ["run", "--vocabulary.min_count", "1" + 20 * "0", "--output", "o"]) == 2
    said = "vocabulary.min_count: 100000000000000000000 is out of range: expected a whole number of at most 19 digits"
    assert capsys.readouterr().err == f"error: {said}\n"


@dataclasses.dataclass(frozen=True)
class Inner:
    number: float = 0.0
    verbatim: str = dataclasses.field(default="", metadata={"verbatim": True})


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    values: Any = None


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (Outer(inner=Inner(number=math.nan)), "inner.number"),
        (Outer(values={"first": [1, 2, 1 << 63]}), "values.first"),
        (Outer(values=-(1 << 63)), "values"),
        (Outer(values={"a": {"b": math.inf}}), "values.a.b"),
        (Outer(values=("a", "b\0")), "values"),
        (Outer(values={"a": ["b", "caf\udce9"]}), "values.a"),
    ],
)
def test_wherever_it_stands(config: Outer, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: "):
        check_meant(config)


def test_what_is_meant_passes() -> None:
    config = Outer(inner=Inner(number=1e300, verbatim="\0"), values=[True, None, (1 << 63) - 1, "é\n", -5])
    before = repr(config)
    check_meant(config)
    assert repr(config) == before
