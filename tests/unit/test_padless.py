# SPDX-License-Identifier: Apache-2.0
"""The library: datasets from frames and files, a training in this process, loaded models, and the example in the
manual.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import padless
from harness.inference import model as model_module
from harness.rundir.json_files import read_lines
from harness.rundir.layout import BUNDLE
from padless.commands import main
from padless.core.fork_server import SERVER
from preprocessing.dataset.shards import read_manifest
from tests.helpers.bundles import shared_run, write_drawn
from tests.helpers.commands import ROOT, run_command, succeed, wait_until
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import final, steps_done, train_to_end

pytestmark = pytest.mark.thorough

INLINE = {"executor.workers": 1, "vocabulary.min_count": 1, "text.max_tokens": 16}
ROWS = 60
FILMS = [f"film {at % 20}" for at in range(ROWS)]
REVIEWS = [f"A <b>{['fine', 'dull', 'odd'][at % 3]}</b> film, says viewer {at}" for at in range(ROWS)]
MOODS = pd.Categorical(["good", "bad", "strange"] * (ROWS // 3))
FRAME = pd.DataFrame({"film": FILMS, "review": REVIEWS, "mood": MOODS}, index=range(100, 100 + ROWS))


def test_a_frame_and_the_csv_of_it_give_the_same_rows_which_come_back_as_frames(tmp_path: Path) -> None:
    keys = {**INLINE, "splits.group_column": "film", "text.max_tokens": 5}
    data = padless.prepare(FRAME, text="review", label="mood", output=tmp_path / "frame", options=keys)
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    from_csv = padless.prepare(tmp_path / "a.csv", output=str(tmp_path / "csv"), options=keys)
    assert data.manifest.fingerprint == from_csv.manifest.fingerprint
    nested = {**INLINE, "splits": {"group_column": "film"}, "text.max_tokens": 5}
    arrow = padless.prepare(pa.table(FRAME), text="review", label="mood", output=tmp_path / "arrow", options=nested)
    assert data.manifest.fingerprint == arrow.manifest.fingerprint
    data = padless.open_dataset(tmp_path / "frame")
    frame = pd.concat(data.values()).sort_values("row", ignore_index=True)
    assert list(frame.columns) == ["row", "label", "length", "text"]
    assert frame["row"].tolist() == list(range(1, ROWS + 1))
    assert frame["label"].tolist() == FRAME["mood"].tolist()


def test_the_example_of_the_manual_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    manual = (ROOT / "docs/your-texts.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", manual, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/your-texts.md", "exec"), {})
    assert capsys.readouterr().out.startswith("['bad', 'good']\n")
    assert read_manifest("data/mine").rows("train") == 32


@pytest.mark.processes
def test_importing_is_cheap_and_a_script_needs_no_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import padless\n"
        "assert not {'torch', 'pandas', 'accelerate', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "import os\n"
        "assert os.environ.get('GOMP_SPINCOUNT') == (sys.argv[2] or None)\n"
        "import pandas\n"
        "frame = pandas.DataFrame({'text': [f'text {at}' for at in range(99)], 'label': [0, 1, 2] * 33})\n"
        "print(padless.prepare(frame, output=sys.argv[1], options={'executor.workers': 2, 'shards.rows': 20}))\n"
    )
    spins = os.environ.get("GOMP_SPINCOUNT", "")
    result = succeed(run_command([sys.executable, str(script), str(tmp_path / "d"), spins]))
    assert result.stdout == f"<padless dataset {tmp_path / 'd'}: train 81, validation 9, test 9 rows, 3 classes>\n"


def process_state() -> tuple[Any, ...]:
    """What a training must leave as it was."""
    return signal.getsignal(signal.SIGINT), torch.get_num_threads(), torch.initial_seed(), dict(os.environ)


def interrupt(run: Path) -> None:
    """Like Ctrl-C after two steps of a run that is about to begin."""

    def wait() -> None:
        wait_until(lambda: steps_done(run) >= 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait).start()


@pytest.mark.processes
def test_a_training_from_python_is_that_of_the_command(tmp_path: Path) -> None:
    """An interrupt stops it with a checkpoint, the same call goes on, and the weights are those of a rank."""
    write_dataset(tmp_path / "data", {"train": 200, "validation": 40, "test": 40})
    state_at_start = process_state()
    words = ["epochs=3", "seed=4", "precision=fp32", "tracking.log_every=1", "threads=1"]
    words += ["optim.ema=0.9", "model.hidden_size=8", "model.wide=256"]
    keys = dict(word.split("=") for word in words) | {"seed": np.int64(4), "quiet": True, "baseline": "none"}

    interrupt(tmp_path / "mine")
    with pytest.raises(KeyboardInterrupt):
        padless.train(tmp_path / "data", tmp_path / "mine", **keys)
    assert (padless.Run(tmp_path / "mine").state, process_state()) == ("preempted", state_at_start)
    run = padless.train(padless.open_dataset(tmp_path / "data"), tmp_path / "mine", **keys)
    assert (run.state, process_state()) == ("finished", state_at_start)
    options = [f"--{word}" for word in words]
    assert train_to_end(*options, "--data", tmp_path / "data", "--run", tmp_path / "rank").returncode == 0
    assert final(run.directory) == final(tmp_path / "rank")
    predictions = pd.read_parquet(run.directory / "test-predictions.parquet")
    assert (predictions["predicted"] == predictions["label"]).mean() == run.figures["accuracy"]
    assert run.metrics["kind"].unique().tolist() == ["train", "validation", "test"]
    assert run.predict(["a fine film"])[0] in run.model.classes_
    rows = padless.open_dataset(tmp_path / "data")["test"]
    for source in ((), (rows,), (str(tmp_path / "data"),)):
        assert (run.evaluate(*source)["confusion"], process_state()) == (run.figures["confusion"], state_at_start)
    assert not (run.directory / "evaluation").exists()
    assert 'srcdoc="&lt;!doctype html&gt;' in run.report._repr_html_().lower()


@pytest.mark.processes
def test_each_call_has_a_process_which_stops_when_its_caller_is_killed(tmp_path: Path) -> None:
    """Calls are forked from one server, which has imported torch."""
    pids = [SERVER.call(os.getpid) for _ in range(2)]
    assert len({os.getpid(), *pids}) == 3
    assert SERVER.call(os.getppid) == SERVER.process.pid
    with pytest.raises(padless.UserError, match="the process that computed it died"):
        SERVER.call(os.abort)
    write_dataset(tmp_path / "data", {"train": 2000, "validation": 40})
    keys = {"epochs": 50, "threads": 1, "baseline": "none", "tracking.log_every": 1}
    program = f"import padless; padless.train({str(tmp_path / 'data')!r}, {str(tmp_path / 'run')!r}, **{keys})"
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL) as caller:
        wait_until(lambda: steps_done(tmp_path / "run") >= 2)
        caller.kill()
    wait_until(lambda: padless.Run(tmp_path / "run").state == "preempted")


@pytest.mark.processes
@pytest.mark.slow
def test_several_processes_train_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"model": {"hidden_size": 8}, "device": "cpu", "num_processes": 2}
    columns = {"text": "review", "label": "mood", "vocabulary": {"min_count": 1}}
    run = padless.train(FRAME, tmp_path / "run", epochs=1, **columns, **keys)
    assert "accuracy" in capsys.readouterr().out
    assert [line["processes"] for line in read_lines(run.directory / "attempts.jsonl")] == [2]
    assert repr(run).startswith(f"<padless run {tmp_path / 'run'}: finished, accuracy")
    with pytest.raises(padless.UserError, match="num_processes: expected a whole number of at least 1"):
        padless.train(tmp_path / "run-data", tmp_path / "run", **{**keys, "num_processes": 0})


@pytest.mark.processes
@pytest.mark.parametrize(
    ("data", "keys", "named"),
    [
        (FRAME, {"run": None}, "run"),
        (FRAME.iloc[:0], {}, "frame"),
        (FRAME.assign(mood=["a", "b", None] * 20), INLINE, "row 3"),
        (FRAME, {"text": "film name"}, "'film name'"),
        (None, {}, "NoneType"),
    ],
)
def test_a_mistake_gets_a_sentence(tmp_path: Path, data: Any, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(padless.UserError, match=re.escape(named)):
        padless.train(data, **{"run": tmp_path / "run", **keys})
    with pytest.raises(padless.UserError, match="options"):
        padless.prepare(FRAME, output=tmp_path / "data", options=[1])


run, two_class_run = shared_run(2, 3), shared_run()
TEXTS = ["a fine film", "awful w1 w2", "", "w1 w2 w3 w4 odd"]


@pytest.mark.parametrize(("dtype", "values"), [("Int64", [3, 10]), ("bool", [False, True])])
def test_predictions_have_the_type_of_the_labels(dtype: Any, values: list[Any], tmp_path: Path) -> None:
    """So that predictions can be compared with a frame's labels, in memory and in each kind of file."""
    texts = [" ".join(REVIEWS[at::7]) for at in range(ROWS)]
    frame = pd.DataFrame({"text": texts, "label": pd.Series(values * 30, dtype=dtype)})
    padless.prepare(frame, output=tmp_path / "data", options={"vocabulary.min_count": 1, "executor.workers": 1})
    write_drawn(tmp_path / "run" / BUNDLE, tmp_path / "data", seed=4)
    model = padless.load(tmp_path / "run")
    predictions = model.predict(frame["text"])
    right = frame["label"] == predictions
    assert (predictions.dtype, model.classes_.tolist()) == (pd.Series(values).dtype, values)
    frame.to_parquet(tmp_path / "new.parquet")
    words = ["--run", tmp_path / "run", "--input", tmp_path / "new.parquet", "--output", tmp_path / "a.parquet"]
    assert main(["predict", *map(str, words)]) == 0
    read = pd.read_parquet(tmp_path / "a.parquet")
    assert (read["label"] == read["predicted"]).mean() == right.mean()
    assert read["predicted"].dtype == pd.Series(values).dtype


def test_a_pickle_has_the_weights_that_were_loaded(run: Path, two_class_run: Path, tmp_path: Path) -> None:
    """Although a better epoch has replaced the files meanwhile."""
    shutil.copytree(run / BUNDLE, tmp_path / "bundle")
    model = padless.load(tmp_path / "bundle")
    expected = model.predict_proba(TEXTS)
    shutil.rmtree(tmp_path / "bundle")
    shutil.copytree(two_class_run / BUNDLE, tmp_path / "bundle")
    copied = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    np.testing.assert_array_equal(copied.predict_proba(TEXTS), expected)


def test_texts_come_in_many_shapes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = padless.load(run)
    expected = model.predict_proba(TEXTS)
    column = pd.Series(TEXTS, index=[7, 3, 5, 1], name="text")
    shapes = [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), column, pa.array(TEXTS)]
    for texts in shapes:
        np.testing.assert_array_equal(model.predict_proba(texts), expected)
    joined = column.to_frame().join(model.predict_frame(column))
    assert joined.index.tolist() == [7, 3, 5, 1]
    assert joined["predicted"].tolist() == model.predict(TEXTS).tolist()
    assert model.predict_proba([]).shape == (0, len(model.classes_))
    monkeypatch.setattr(model_module, "CHUNK_ROWS", 2)
    np.testing.assert_allclose(model.predict_proba(TEXTS), expected, atol=1e-6)
