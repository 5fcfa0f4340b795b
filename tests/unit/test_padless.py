# SPDX-License-Identifier: Apache-2.0
"""The library: a dataset from a frame or a file, datasets and predictions as frames, and the example in the manual."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import padless
from harness.rundir import results
from preprocessing.dataset.shards import read_manifest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).resolve().parents[2]
INLINE = {"executor.workers": 1, "vocabulary.min_count": 1, "text.max_tokens": 16}
ROWS = 60
FRAME = pd.DataFrame(
    {
        "film": [f"film {at % 20}" for at in range(ROWS)],
        "review": [f"A <b>{['fine', 'dull', 'odd'][at % 3]}</b> film, says viewer {at}" for at in range(ROWS)],
        "mood": pd.Categorical([["good", "bad", "strange"][at % 3] for at in range(ROWS)]),
    },
    index=range(100, 100 + ROWS),
)


def test_a_frame_and_the_csv_of_it_give_the_same_rows_which_come_back_as_frames(tmp_path: Path) -> None:
    keys = {**INLINE, "splits.group_column": "film", "text.max_tokens": 5}
    data = padless.prepare(FRAME, text="review", label="mood", output=tmp_path / "frame", options=keys)
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    same = padless.prepare(tmp_path / "a.csv", output=str(tmp_path / "csv"), options=keys)
    assert data.manifest.fingerprint == same.manifest.fingerprint
    arrow = padless.prepare(pa.table(FRAME), text="review", label="mood", output=tmp_path / "arrow", options=keys)
    assert data.manifest.fingerprint == arrow.manifest.fingerprint
    data = padless.open_dataset(tmp_path / "frame")
    assert list(data) == ["train", "validation", "test"]
    assert data.labels == ["bad", "good", "strange"]
    frame = pd.concat(data.values()).sort_values("row", ignore_index=True)
    assert list(frame.columns) == ["row", "label", "length", "text"]
    assert frame["row"].tolist() == list(range(1, ROWS + 1))
    assert frame["label"].tolist() == FRAME["mood"].tolist()
    assert frame["text"][0].split()[:2] == ["a", "fine"]
    assert frame["length"].tolist() == [5] * ROWS
    with pytest.raises(KeyError, match="has no split 'dev'; it has train, validation, test"):
        data["dev"]


def test_a_wrong_frame_or_option_gets_a_sentence(tmp_path: Path) -> None:
    unlabelled = FRAME.assign(mood=["a", "b", None] * 20)
    for frame, options, sentence in (
        (FRAME.iloc[:0], INLINE, "frame: the corpus is empty: no row to learn from"),
        (unlabelled, INLINE, "frame: row 3: there is no label; fill it in, or leave such rows out"),
        (FRAME, {"splits.tset": 0.5}, "--splits.tset: no such option; did you mean"),
    ):
        with pytest.raises(padless.UserError, match=f"^{re.escape(sentence)}"):
            padless.prepare(frame, output=tmp_path / "d", options=options)


def test_predictions_as_frames(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluation").mkdir(parents=True)
    common = {"labels": np.array([0, 1]), "predicted": np.array([0, 0]), "chances": np.array([[0.9, 0.1], [0.6, 0.4]])}
    results.write_predictions(run / "evaluation", "validation", ["no", "yes"], "text", rows=np.array([3, 9]), **common)
    frame = padless.open_predictions(run)
    assert frame.columns.tolist() == ["row", "label", "predicted", "probability_no", "probability_yes"]
    assert frame["row"].tolist() == [3, 9]
    (tmp_path / "p.csv").write_text("text,predicted,probability_yes\n007,1,0.5\nNA,0,0.25\n")
    assert padless.open_predictions(tmp_path / "p.csv")["text"].tolist() == ["007", "NA"]


def test_the_example_of_the_manual_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    manual = (ROOT / "docs/how-to/your-texts.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", manual, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/how-to/your-texts.md", "exec"), {})
    assert capsys.readouterr().out.startswith("['bad', 'good']\n")
    assert read_manifest("data/mine").rows("train") == 32


@pytest.mark.processes
def test_importing_is_cheap_and_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import padless\n"
        "assert not {'torch', 'pandas', 'accelerate', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "import pandas\n"
        "frame = pandas.DataFrame({'text': [f'text {at}' for at in range(99)], 'label': [0, 1, 2] * 33})\n"
        "print(padless.prepare(frame, output=sys.argv[1], options={'executor.workers': 2, 'shards.rows': 20}))\n"
    )
    result = subprocess.run(
        [sys.executable, script, tmp_path / "d"],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"<padless dataset {tmp_path / 'd'}: train 81, validation 9, test 9 rows, 3 classes>\n"
