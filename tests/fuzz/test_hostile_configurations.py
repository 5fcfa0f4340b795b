# SPDX-License-Identifier: Apache-2.0
"""Configuration files and values of options: read, or refused with one sentence, whatever stands in them."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st

from preprocessing.base import cli
from preprocessing.base.configuration import parse_yaml
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import NASTY, byte_damages
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.thorough

WHOLE = """\
seed: 7
source:
  path: [a.csv, b.csv]
  labels: {good: [1, yes], bad: [0, no]}
  where: {lang: en}
text:
  max_tokens: 256
  html: true
splits: {test: 0.2, validation: 1.0e-1}
"""
PIECES = (
    *("a: ", "- ", "[", "]", "{", "}", ", ", "? ", "\n", "  ", "\t", "#", "|", "---\n", "%TAG ! x\n", '"', "'", "\\x"),
    *("&a ", "*a", "<<: *a", "!!binary", "!!int ", "!!timestamp ", "!!python/object:os.system ", "seed", "text"),
    *("~", "yes", "0x1F", "1:60", "2020-13-45", ".nan", "1e999", "é", "\ud800", "\0", "1" * 5000),
)
LAUGHS = "a: &a0 [" + ", ".join("1" * 9) + "]\n"
LAUGHS += "".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
HOSTILE = {
    "laughs": LAUGHS,
    "itself": "a: &a [*a]\n",
    "brackets": "a: " + "[" * 100_000,
    "a class": "a: !!python/object/apply:os.system [touch executed]\n",
    "twice": "seed: 1\nseed: 2\n",
    "no date": "seed: !!timestamp 2020-13-45\n",
    "a key that is a list": "? [a]\n: 1\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "a bell": "seed: \x07\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(HOSTILE[name])
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^c\.yaml: not a YAML file: "):
        cli.parse(PreprocessConfig, ["--config", "c.yaml", "--output", "o"], prog="run")
    assert time.monotonic() - began < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]  # nothing was executed


def said(content: bytes) -> object:
    """The value of YAML, or of what some take for it; ``ConfigError`` for what is refused."""
    try:
        return parse_yaml(content.decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"c.yaml: {error}") from None


def test_damaged_yaml_is_read_or_refused(fuzz: Fuzz) -> None:
    whole = WHOLE.encode()
    made = st.lists(st.sampled_from((*PIECES, *NASTY)), max_size=30).map(
        lambda drawn: "".join(drawn).encode("utf-8", "replace")
    )
    cases = st.one_of(byte_damages(whole).map(lambda damage: damage.data), made)
    found = fuzz(cases, lambda data: outcome(partial(said, data), lambda value: True, "c.yaml"))
    assert found["refused"] > 0
    assert found["same"] > 0
