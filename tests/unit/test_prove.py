# SPDX-License-Identifier: Apache-2.0
"""The script that proves things on a card: its data, its table, its limits; the stages run on a CPU by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from tests.gpu.corpus import LONGEST, TELLING, review_ids, review_lengths, write_corpus
from tests.gpu.findings import Findings, markdown
from tests.gpu.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def test_lengths_are_those_of_film_reviews() -> None:
    lengths = review_lengths(50_000, np.random.default_rng(0))
    assert int(np.median(lengths)) == pytest.approx(174, abs=3)
    assert (lengths.min(), lengths.max()) == (10, 400)
    assert np.quantile(lengths, 0.1) == pytest.approx(67, abs=3)
    assert (lengths == 400).mean() == pytest.approx(0.13, abs=0.01)


def test_words_that_show_a_class_have_large_ids() -> None:
    lengths, labels = np.array([400, 100]), np.array([0, 1])
    ids = review_ids(lengths, labels, np.random.default_rng(0))
    assert ids.shape == (2, LONGEST)
    assert (ids > 0).sum(1).tolist() == [400, 100]
    for row, first in enumerate((TELLING, TELLING + 50)):
        shown = ((ids[row] >= first) & (ids[row] < first + 50)).sum() / lengths[row]
        assert shown == pytest.approx(0.06, abs=0.04)


def test_the_dataset_is_a_whole_one(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"train": 200, "validation": 20, "test": 20}, block_rows=64)
    assert verify(tmp_path) == []
    manifest = read_manifest(tmp_path)
    assert (manifest.rows("train"), manifest.id_dtype, manifest.vocabulary_size) == (200, "uint16", 40_000)


def test_findings_are_on_the_disk_at_once(tmp_path: Path) -> None:
    found = Findings(tmp_path / "stage.json")
    found.add("a claim", "true | so", np.bool_(True))  # type: ignore[arg-type]
    found.figure("numbers", [1, 2])
    read = Findings.read(tmp_path / "stage.json")
    assert (read.lines, read.figures, read.state) == (found.lines, {"numbers": [1, 2]}, "running")
    assert read.failures == 1  # it has not come to its end


def test_the_table(tmp_path: Path) -> None:
    one, other = Findings(tmp_path / "one.json"), Findings(tmp_path / "other.json")
    one.add("a claim", "12 | 13", True)
    one.add("another", "not so", False)
    one.state, one.seconds = "done", 3
    other.state, other.error = "timed out", "its limit of 5 s"
    lines = markdown("cuda", [("One", one), ("Other", other)]).splitlines()
    assert lines[0] == "Proof on cuda: 2 claims do not hold; stages took 3 s in all."
    assert lines[4:] == [
        "| One (done, 3 s) | a claim | 12 \\| 13 | yes |",
        "|  | another | not so | **no** |",
        "| Other (timed out, 0 s) | stopped by | its limit of 5 s | **no** |",
    ]


def test_the_limits_fit_into_nine_minutes() -> None:
    together = max(stage.limit_s for stage in STAGES if not stage.alone)
    assert together + sum(stage.limit_s for stage in STAGES if stage.alone) < 530


@pytest.mark.processes
def test_a_stage_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests/gpu'); import prove; from tests.gpu.stages import Stage; "
        "from pathlib import Path; out = Path(sys.argv[1]); prove.LEAST_S = 0; "
        "stages = [Stage('none', 'No such', 30), Stage('versions', 'Too slow', 0.05), Stage('versions', 'Good', 60)]; "
        "sys.exit(prove.Proof(out, out, 'cpu', stages).run())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    said = result.stdout.splitlines()
    assert result.returncode == 1, result.stderr
    assert [line.split(" after")[0] for line in said] == ["No such: failed", "Too slow: timed out", "Good: done"]
    found = json.loads((tmp_path / "prove.json").read_text())
    assert "No module named 'tests.gpu.stages.none'" in found["none"]["error"]
    assert found["versions"]["lines"][0]["what"] == "Python, torch"


@pytest.mark.slow
def test_every_claim_holds_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/gpu/prove.py", "--out", str(tmp_path), "--device", "cpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout
    assert "Proof on cpu: every claim holds" in result.stdout
