# SPDX-License-Identifier: Apache-2.0
"""``harness plan``: its figures are those of the run, from the manifest alone; ``--verify`` proves the order."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import ModelConfig
from harness.data.checks import order_spec
from harness.data.order import Order, OrderSpec, order_over
from harness.launch import plan as planning
from harness.launch import verify as verifying
from harness.launch.plan import PlanConfig, main, num_parameters
from harness.model.classifier import Classifier
from harness.model.classifier import num_parameters as counted_parameters
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 500, "validation": 20, "test": 20}, block_rows=32)
    return root


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("extra", [("--global_batch", 24), ("--global_batch_tokens", 1000)])
def test_the_plan_is_what_the_run_does(dataset: Path, capsys: pytest.CaptureFixture[str], extra: tuple) -> None:
    values = as_json(capsys, "--data", dataset, "--world_size", 4, "--epochs", 3, *extra)
    config = PlanConfig(data=str(dataset), **{extra[0][2:]: extra[1]})
    split = Split(dataset, read_manifest(dataset), "train")
    order = order_over(split, order_spec(config))
    sizes = [len(order.batch_rows(0, step)) for step in range(order.steps_per_epoch)]
    assert values["steps_per_epoch"] == len(sizes)
    assert values["steps"] == 3 * len(sizes)
    assert values["rows_per_step"] == [min(sizes), max(sizes)]
    assert values["rows"] == 500
    assert values["tokens"] == sum(int(block.length.sum()) for block in split.blocks)
    fewest, most = values["ranks"]["tokens_per_rank"]
    assert 4 * fewest <= values["tokens"] <= 4 * most
    assert values["proof"]["each_row_once"] is True
    assert values["proof"]["steps_counted"] == len(sizes)


def test_the_manifest_alone_is_enough(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(dataset / "dataset.json", tmp_path)
    assert as_json(capsys, "--data", tmp_path) == as_json(capsys, "--data", dataset)


def test_padding_is_that_of_the_real_rows(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = as_json(capsys, "--data", dataset, "--global_batch", 50, "--world_size", 2)
    split = Split(dataset, read_manifest(dataset), "train")
    lengths = [int(length) for block in split.blocks for length in block.length]
    order = order_over(split, OrderSpec(seed=0, global_batch=50))
    padded_tokens = 0
    for step in range(order.steps_per_epoch):
        for rank in range(2):
            rows = order.rank_rows(0, step, rank, 2)
            padded_tokens += len(rows) * max(lengths[row] for row in rows)
    assert values["ranks"]["padding"] == pytest.approx(1 - sum(lengths) / padded_tokens, abs=0.01)


def test_padding_grows_with_batch_and_noise_and_shrinks_with_rungs(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = as_json(capsys, "--data", dataset)
    smallest, largest = values["batches"][0], values["batches"][-1]
    assert smallest["padding"]["0.0"] < largest["padding"]["0.0"]
    assert smallest["padding"]["0.0"] < smallest["padding"]["0.05"]
    ladders = {line["name"]: line for line in values["ladders"]}
    assert ladders["this dataset"]["widths"] == [16, 32, 64]
    assert ladders["this dataset"]["padding_on_disk"] < ladders["one width"]["padding_on_disk"]
    split = Split(dataset, read_manifest(dataset), "train")
    assert ladders["this dataset"]["id_bytes"] == sum(block.ids.nbytes for block in split.blocks)


def test_which_world_sizes_divide_well(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = as_json(capsys, "--data", dataset, "--global_batch", 50)
    idle = {line["world_size"]: line["idle"] for line in values["world_sizes"]}
    assert idle[1] == idle[2] == 0
    assert idle[4] == pytest.approx(1 - 50 / 52)
    assert max(idle) == 48


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize(
    "shape",
    [
        ModelConfig(),
        ModelConfig(num_layers=2, bidirectional=False, hidden_size=7),
        ModelConfig(pooling="max+mean", hidden_size=9),
    ],
)
def test_parameters_are_counted_without_torch(shape: ModelConfig, num_classes: int) -> None:
    torch.manual_seed(0)
    assert num_parameters(shape, 50, num_classes) == counted_parameters(Classifier(shape, 50, num_classes))


def test_large_splits_are_sampled(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SAMPLED_ROWS", 100)
    values = as_json(capsys, "--data", dataset, "--global_batch", 10, "--order.window_rows", 60)
    assert 0 < values["ranks"]["steps"] < values["steps_per_epoch"] == 50
    assert sum(values["ranks"]["tokens_per_rank"]) / 2 == pytest.approx(values["tokens"], rel=0.2)
    assert values["proof"]["each_row_once"] is True


def test_verify_proves_the_order(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worlds, cuts = "[1,3,8]", "[0,7,20]"
    options = ("--verify", "--verify_worlds", worlds, "--verify_cuts", cuts, "--verify_epochs", 2)
    values = as_json(capsys, "--data", dataset, "--global_batch", 25, "--order.window_rows", 100, *options)
    verified = values["verified"]
    assert len(verified) == 2 * (1 + 3 + 3)
    assert all(line["holds"] for line in verified)
    assert verified[0]["sentence"] == "epoch 0: 500 of 500 rows came exactly once"
    changes = [line["world_sizes"] for line in verified if line["what"] == "cut and continued"]
    assert changes[:3] == [[1, 3], [3, 8], [8, 1]]


def test_verify_catches_an_order_that_loses_a_row(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Order.rank_rows

    def lossy(self: Order, epoch: int, step: int, rank: int, world_size: int) -> Any:
        rows = whole(self, epoch, step, rank, world_size)
        return rows[1:] if (step, rank) == (3, 1) else rows

    monkeypatch.setattr(Order, "rank_rows", lossy)
    manifest = read_manifest(dataset)
    config = PlanConfig(data=str(dataset), verify_worlds=[1, 2], verify_epochs=1)
    failed = [line for line in verifying.verify(config, manifest) if not line["holds"]]
    assert [line["what"] for line in failed] == ["same steps", "cut and continued", "cut and continued"]
    with pytest.raises(UserError, match="the order does not hold what it promises"):
        main(["--data", str(dataset), "--verify", "--verify_worlds", "[1,2]"])


def test_for_people(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--data", str(dataset), "--global_batch", "50"])
    shown = capsys.readouterr().out
    assert "steps      10 an epoch, 40 in all, of 50 to 50 rows" in shown
    assert "proof      each row exactly once; counted over 10 steps" in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--world_size", "65"), "global_batch: 64 rows cannot be shared by 65 processes; raise it to at least 65"),
        (("--global_batch_tokens", "63"), "global_batch_tokens: 63 is less than a row of the widest shard (64 tokens)"),
        (
            ("--global_batch_tokens", "640", "--world_size", "11"),
            "global_batch_tokens: 640 tokens make steps of 9 rows, which cannot be shared by 11 processes",
        ),
        (("--verify", "--verify_worlds", "[100]"), "verify_worlds: 100 processes cannot share steps of 62 rows"),
        (("--verify", "--verify_cuts", "[99]"), "verify_cuts: 99 is beyond an epoch's 8 steps"),
        (("--verify", "--verify_worlds", "[0]"), "verify_worlds: [0] is out of range"),
        (("--world_size", "0"), "world_size: 0 is out of range"),
        (("--worldsize", "2"), "--worldsize: no such option; did you mean --world_size?"),
    ],
)
def test_mistakes_get_a_sentence(dataset: Path, options: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["--data", str(dataset), *options])
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(main, ["--data", str(tmp_path)]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.processes
def test_a_plan_does_not_wait_for_torch(dataset: Path) -> None:
    script = (
        "import sys; from harness.launch.plan import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules or 'accelerate' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "--data", str(dataset), "--verify", "--verify_epochs", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
