# SPDX-License-Identifier: Apache-2.0
"""The run directory: who may write, what counts as damage, what is read back, and that nobody else spells its names."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import RunConfig
from harness.rundir import layout, records, results
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.json_files import read_lines, read_object
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.rundir.records import (
    known_status,
    note_attempt,
    read_attempts,
    read_config,
    read_environment,
    read_status,
    write_config,
    write_environment,
    write_status,
)
from harness.rundir.results import open_predictions
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.config import PreprocessConfig
from preprocessing.job import output
from preprocessing.labels import LabelType

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_directory_is_claimed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CLAIM_LIMIT_S", 0.3)
    config = RunConfig(run=str(tmp_path / "run"))
    with records.claim(config), pytest.raises(ConfigError, match="another process trains in"):
        records.claim(config)
    records.claim(config).close()
    layout.check_free(config.run)
    write_config(config)
    with pytest.raises(ConfigError, match="already holds a run"):
        layout.check_free(config.run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        layout.check_free(tmp_path / "file")
    assert read_config(tmp_path / "run")["optim"]["betas"] == [0.9, 0.999]


def test_a_last_line_that_was_cut_short_never_counts_and_any_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / layout.METRICS
    assert read_lines(path) == []
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON \(.*\); remove it, or restore the file"):
        read_lines(path)
    assert read_lines(path, several_writers=True) == [{"step": 1}, {"step": 3}]
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1 is not JSON \(no JSON object\)"):
        read_lines(path)
    assert read_lines(path, several_writers=True) == []
    path.write_bytes(b'{"step": "\xff"}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 1 is not JSON"):
        read_lines(path)


def test_an_object_is_there_or_missing_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / layout.STATUS
    assert read_object(path) is None
    assert read_status(tmp_path) is None
    path.write_text("{")
    with pytest.raises(
        DataError, match=r"status\.json: not readable as JSON .*; start the run again, which rebuilds it"
    ):
        read_status(tmp_path)
    path.write_text("[]")
    with pytest.raises(DataError, match=r"status\.json: holds no JSON object"):
        read_status(tmp_path)
    write_status(tmp_path, "failed", step=3, exit_code=4, reason="full")
    assert read_status(tmp_path) == {"state": "failed", "exit_code": 4, "reason": "full", "step": 3, "launch": None}


@pytest.mark.parametrize(
    "content", [b"", b'{"state": "fini', b'{"state": "over"}', b"[]", b'{"state": "running", "step": NaN}']
)
def test_a_damaged_status_is_rebuilt_from_the_checkpoints(tmp_path: Path, content: bytes) -> None:
    """It names the newest step, and no good end: a run that had ended ends again."""
    (tmp_path / layout.CHECKPOINTS / "step-00000012").mkdir(parents=True)
    (tmp_path / layout.STATUS).write_bytes(content)
    said: list[str] = []
    found = known_status(tmp_path, said.append)
    assert (found["state"], found["step"], found["launch"]) == ("failed", 12, None)
    assert len(said) == 1
    assert "status.json" in said[0]
    assert "the newest checkpoint is that of step 12" in said[0]
    (tmp_path / layout.STATUS).unlink()
    (tmp_path / layout.STATUS).mkdir()
    with pytest.raises(DataError, match=r"status\.json: is a directory, not a file"):
        known_status(tmp_path)


def test_damaged_metrics_are_cut_back_to_whole_lines_and_it_is_said(tmp_path: Path) -> None:
    """What the checkpoint knows of decides; a line that is JSON, but none of ours, is damaged too."""
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write("train", {"step": step, "loss": 0.5})
    known = log.sizes()
    log.write("train", {"step": 6, "loss": 0.5})
    log.close()
    path = tmp_path / layout.METRICS
    whole = path.read_bytes()
    again = MetricsLog(tmp_path, known)
    again.close()
    assert again.mended == []
    assert path.read_bytes() == whole[: known[layout.METRICS]]
    lines = whole.splitlines(keepends=True)
    path.write_bytes(
        lines[0] + lines[1].replace(b"0.5", b"[1]") + lines[2].replace(b"loss", b"lo\xffs") + lines[3] + b'{"k'
    )
    again = MetricsLog(tmp_path, known)
    again.write("train", {"step": 6, "loss": 0.25})
    again.close()
    written = known[layout.METRICS]
    assert again.mended == [f"{path}: damaged: {written} bytes were written; the 2 whole lines among them are kept"]
    assert [line["step"] for line in read_log(tmp_path)] == [1, 4, 6]
    path.unlink()
    again = MetricsLog(tmp_path, known)
    again.close()
    (sentence,) = again.mended
    assert sentence.endswith("the 0 whole lines among them are kept")


def test_a_run_does_not_begin_inside_a_dataset(tmp_path: Path) -> None:
    """One that did before goes on."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text("{}")
    for run in (data, data / "runs" / "mine"):
        with pytest.raises(ConfigError, match=rf"run: {run} lies inside the dataset {data}; name a directory outside"):
            layout.check_free(run)
    layout.check_free(tmp_path / "run")
    old = data / "old"
    old.mkdir()
    write_status(old, "failed")
    layout.check_directory(old)


def test_a_dataset_does_not_begin_inside_a_run(tmp_path: Path) -> None:
    """One that did before goes on; a folder that has a config.yaml of its own is no run."""
    assert output.OF_A_RUN == (layout.CONFIG, layout.STATUS)
    run, new = tmp_path / "run", tmp_path / "run" / "sets" / "mine"
    run.mkdir()
    (run / layout.CONFIG).write_text("epochs: 1\n")
    write_status(run, "failed")
    sentence = rf"^output: {new}: lies inside the run {run}; name a directory outside of it$"
    with pytest.raises(ConfigError, match=sentence), output.claimed(PreprocessConfig(output=str(new))):
        pass
    assert sorted(path.name for path in run.iterdir()) == [layout.CONFIG, layout.STATUS]
    (new / output.WORK).mkdir(parents=True)
    with output.claimed(PreprocessConfig(output=str(new))) as place:
        assert place.root == new


def test_a_vocabulary_that_is_gone_is_not_a_full_disk(tmp_path: Path) -> None:
    """Making room would not bring it back."""
    with layout.storage(tmp_path), pytest.raises(DataError, match=r"vocabulary\.arrow: not readable \(No such file"):
        write_vocabulary(tmp_path / "bundle", tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: &x [1]\nb: *x\n", "found an alias, which is not read"),
        ("data: !!python/object/apply:os.system ['false']\n", "could not determine a constructor"),
        ("data: 3\n", r"config\.yaml: Expected `str`, got `int` - at `\$\.data`"),
        ("fold: -1\n", r"Expected `int` >= 0 - at `\$\.fold`"),
        ("a: .nan\n", "NaN is no number"),
        ("a: 2020-01-01\n", "not JSON serializable"),
        ("[" * 5000, "not readable as YAML"),
        ("- 1\n", "Expected `object`, got `array`"),
    ],
)
def test_a_configuration_of_a_stranger_is_plain_values_or_refused(tmp_path: Path, content: str, sentence: str) -> None:
    """Nothing is executed, nothing unfolds."""
    (tmp_path / layout.CONFIG).write_text(content)
    with pytest.raises(DataError, match=sentence):
        read_config(tmp_path)


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write("train", {"step": 1, "loss": math.nan, "grad_norm": -math.inf, "verdict": "slow"})
    before = log.sizes()
    log.write("train", {"step": 2, "loss": 0.5})
    log.write("train", {"step": 2, "rows_per_s": 7.0}, layout.THROUGHPUT)
    log.close()
    first, second = read_log(tmp_path)
    assert math.isnan(first.pop("loss"))
    assert first == {"kind": "train", "step": 1, "grad_norm": -math.inf, "verdict": "slow"}
    assert second == {"kind": "train", "step": 2, "loss": 0.5}
    assert read_log(tmp_path, layout.THROUGHPUT) == [{"kind": "train", "step": 2, "rows_per_s": 7.0}]
    MetricsLog(tmp_path, before).close()
    assert [line["step"] for line in read_log(tmp_path)] == [1]
    assert read_log(tmp_path, layout.THROUGHPUT) == []


def test_attempts_are_counted(tmp_path: Path) -> None:
    assert [note_attempt(tmp_path, {"resumed_from": step}) for step in (None, 12)] == [1, 2]
    assert [(line["attempt"], line["resumed_from"]) for line in read_attempts(tmp_path)] == [(1, None), (2, 12)]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert results.read_figures(tmp_path, "test") is None
    results.write_figures(tmp_path, "test", {"accuracy": 0.5})
    assert results.read_figures(tmp_path, "test") == {"accuracy": 0.5}
    path = tmp_path / "test.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(DataError, match=r"test\.json: its content does not match its sha256"):
        results.read_figures(tmp_path, "test")
    path.write_text('{"format": "padless-evaluation", "format_version": 9}')
    with pytest.raises(DataError, match=r"test\.json: padless-evaluation 9, this padless reads padless-evaluation 1"):
        results.read_figures(tmp_path, "test")


@pytest.mark.parametrize(
    ("kind", "names", "values"),
    [
        ("text", ["no", "yes"], ["no", "yes"]),
        ("int", ["0", "1"], [0, 1]),
        ("float", ["0.5", "1"], [0.5, 1.0]),
        ("bool", ["false", "true"], [False, True]),
    ],
)
def test_predictions_are_read_as_they_were_written(
    kind: LabelType, names: list[str], values: Any, tmp_path: Path
) -> None:
    chances = np.array([[0.25, 0.75], [0.5, 0.5]])
    rows, labels, predicted = np.array([7, 9]), np.array([1, 0]), np.array([1, 1])
    given = {"rows": rows, "labels": labels, "predicted": predicted, "chances": chances}
    results.write_predictions(tmp_path, "test", names, kind, **given)
    frame = open_predictions(tmp_path)
    assert (frame["label"].tolist(), frame["predicted"].tolist()) == (values[::-1], [values[1], values[1]])
    true, found = results.read_predictions(tmp_path, "test", names[1:])
    assert true.tolist() == names[::-1]
    assert {name: column.tolist() for name, column in found.items()} == {names[1]: [0.75, 0.5]}
    assert list(frame) == ["row", "label", "predicted", *(f"probability_{name}" for name in names)]


def strings_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every text in a module's code, with its line; docstrings are not code."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_nobody_else_spells_a_name_of_the_run_directory() -> None:
    names = [layout.CONFIG, layout.ENVIRONMENT, layout.ATTEMPTS, layout.STATUS, layout.METRICS, layout.THROUGHPUT]
    names += [
        layout.REPORT,
        layout.BAD_BATCHES,
        "bundle.json",
        "manifest.json",
        "test.json",
        "test-predictions.parquet",
    ]
    known = "|".join(map(re.escape, names))
    pattern = re.compile(rf"(?<!\w)({known})(?!\.j2)|^{layout.STOP}$|^-predictions\.parquet$")
    planted = ast.parse('"""status.json"""\npath = run / "status.json"\nstop = "STOP"\nfile = "report.html.j2"\n')
    assert {line for line, text in strings_of(planted) if pattern.search(text)} == {2, 3}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "harness").rglob("*.py"))
        if path.parent.name != "rundir"
        for line, text in strings_of(ast.parse(path.read_text()))
        if pattern.search(text)
    ]
    assert found == []


@pytest.mark.processes
def test_reading_a_run_directory_brings_no_torch() -> None:
    modules = [f"harness.rundir.{path.stem}" for path in sorted((ROOT / "harness" / "rundir").glob("[a-z]*.py"))]
    script = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=240, check=False).returncode == 0


@pytest.mark.processes  # the environment asks git for the revision
def test_the_password_of_an_address_is_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--data", "http://me:SECRET@host/data?token=SECRET"])
    write_environment(tmp_path, {})
    write_status(tmp_path, "failed", reason="http://me:SECRET@host/data: gone")
    assert read_environment(tmp_path)["command"] == ["train", "--data", "http://host/data"]
    assert known_status(tmp_path)["reason"] == "http://host/data: gone"
