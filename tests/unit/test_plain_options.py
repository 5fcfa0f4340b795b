# SPDX-License-Identifier: Apache-2.0
"""Options read without jsonargparse mean what they mean with it, and what needs it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from preprocessing.base import cli, plain_options
from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import is_importable, needed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Some options."""

    run: str
    """A place."""
    column: str | None = field(default=None, metadata={"also": ("text_column",)})
    """A name."""
    batch: int = 128
    """A number."""
    limit: float | None = None
    """A number, or none."""
    kind: Literal["auto", "csv"] = "auto"
    """A word."""
    json: bool = False
    """A switch."""
    names: list[str] = field(default_factory=list)
    """What only jsonargparse reads."""


SAME = [
    (["--run", "a"], []),
    (["--run=a", "--json", "b", "c"], ["b", "c"]),
    (["x", "--json", "false", "--run", "a", "--batch", "3"], ["x"]),
    (["--json=true", "--run=a=b", "--kind", "csv"], []),
    (["--run", "a", "--text_column", "t", "--limit", "0.5"], []),
    (["--run", "a", "--column=null", "--limit=null"], []),
    (["--run", "a", "--", "--json"], ["--json"]),
]


@pytest.mark.parametrize(("argv", "words"), SAME)
def test_the_same_words_mean_the_same(argv: list[str], words: list[str]) -> None:
    found, alone = plain_options.read(Options, argv, "prog")
    assert alone == words
    bare = argv[: argv.index("--")] if "--" in argv else [word for word in argv if word not in words]
    assert found == cli.parse(Options, bare, prog="prog")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--run", "a", "--bach", "3"], "--bach: no such option; did you mean --batch?"),
        (["--batch", "3"], "--run is missing; prog --help"),
        (["--run", "a", "--batch", "many"], "batch: expected int, got many"),
        (["--run", "a", "--kind", "tsv"], "kind: expected one of auto, csv, got tsv"),
        (["--run", "a", "--json=yes"], "json: expected true or false, got yes"),
        (["--run"], "--run: a value follows it, as in --run VALUE"),
        (["--run", "a", "--config", "f"], "--config: YAML is read by jsonargparse, which is not installed here"),
        (["--run", "a", "--names", "[b]"], "--names: is read by jsonargparse, which is not installed here"),
    ],
)
def test_what_is_wrong_gets_a_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plain_options.read(Options, argv, "prog")
    assert str(caught.value).startswith(sentence)


def test_help_shows_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        plain_options.read(Options, ["--help"], "prog")
    assert caught.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "usage: prog [--key value …]; with jsonargparse installed --help says more"
    assert "  --kind  (auto)  auto, csv" in shown
    assert "  --column  (null)" in shown


def test_what_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonargparse", None)
    assert not is_importable("jsonargparse")
    assert is_importable("json")
    with pytest.raises(ConfigError, match=r"prog: jsonargparse cannot be imported here; pip install 'jsonargparse'"):
        cli.parse(Options, [], prog="prog")
    with pytest.raises(ConfigError, match=r"--x: no_such_one cannot be imported here; pip install 'padless\[more\]'"):
        needed("no_such_one", "--x", "more")
