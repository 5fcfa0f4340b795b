# SPDX-License-Identifier: Apache-2.0
"""``bench limits``: each size leaves one line, what is refused its sentence, and nothing is tried twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.bench import limits
from harness.bench.limits_cases import CASES
from preprocessing.base.errors import ConfigError


@pytest.mark.processes
@pytest.mark.thorough
def test_every_size_leaves_a_line_and_is_not_tried_again(tmp_path: Path, capsys, monkeypatch) -> None:
    output = tmp_path / "limits.jsonl"
    limits.main(limits.LimitsConfig(output=str(output), only=["files"], json=True))
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["size"]) == ("files", CASES["files"].small[0])
    assert line.keys() == {"kind", "size", "version", "time", "seconds", "peak_mb"}
    assert 20 < line["peak_mb"] < 2000
    with output.open("a") as file:
        file.write('{"kind": "cut o')
    monkeypatch.setattr(limits, "attempt", lambda *_: pytest.fail("tried again"))
    limits.main(limits.LimitsConfig(output=str(output), only=["files"]))
    assert "done" in capsys.readouterr().out
    assert [json.loads(text) for text in output.read_text().splitlines()] == [line]


@pytest.mark.slow
def test_what_is_refused_has_its_sentence(tmp_path: Path) -> None:
    line = limits.attempt("rows", 0, 60)
    assert "texts.csv" in line["refused"]
    assert line["seconds"] > 0
    assert limits.attempt("rows", 0, 0.01)["failed"] == "not done after 0.01 s"
    assert limits.attempt("nothing", 1, 60)["failed"] == "exit code 1: KeyError: 'nothing'"


def test_names_and_files_that_nobody_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only: 'row' is out of range: expected one of rows, classes"):
        limits.LimitsConfig(only=["row"])
    (tmp_path / "other").write_text("text\n")
    with pytest.raises(ConfigError, match="other is no file of results of bench limits; name another"):
        limits.read(tmp_path / "other")


def test_a_table_has_a_line_for_each() -> None:
    facts = [{"seconds": 1.25, "peak_mb": 100}, {"seconds": 2.0, "peak_mb": 90, "refused": "no"}, {"failed": "it did"}]
    lines = limits.render([{"kind": "rows", "size": 1000, **one} for one in facts]).splitlines()[1:]
    assert [line.split() for line in lines] == [
        ["rows", "1,000", "1.2", "100.0", "done"],
        ["rows", "1,000", "2.0", "90.0", "no"],
        ["rows", "1,000", "it", "did"],
    ]
