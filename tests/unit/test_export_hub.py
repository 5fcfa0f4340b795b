# SPDX-License-Identifier: Apache-2.0
"""An export pushed to a hub on loopback and loaded from it; what is said where that cannot be done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import are_progress_bars_disabled

import padless
from harness.__main__ import main
from harness.inference import hub as ours
from harness.rundir.bundle_files import CARD, EXPORT
from preprocessing.base import cli
from tests.exports import TEXTS, export, make_run
from tests.hub_server import Hub, serving


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("one"), wide=64)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, file_download):  # the second has a copy in old versions
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "secret")
        yield server


def test_what_is_pushed_is_loaded_again(hub: Hub, run: Path, tmp_path: Path, capsys) -> None:
    assert export(run, "--output", tmp_path / "out", "--onnx", "--push", "me/mine") == 0
    assert f"pushed: {hub.url}/me/mine/commit/" in " ".join(capsys.readouterr().out.split())
    (made,) = hub.created
    assert (made["organization"], made["name"]) == ("me", "mine")
    assert made.get("private") is True or made["visibility"] == "private"  # older and newer huggingface_hub
    assert hub.tokens == {"Bearer secret"}
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert 'padless.load("hf://me/mine")' in hub.files[CARD].decode()
    expected = padless.load(run).predict_proba(TEXTS)
    model = padless.load("hf://me/mine")
    np.testing.assert_array_equal(model.predict_proba(TEXTS), expected)
    assert repr(model).startswith("<padless model hf://me/mine: 2 classes")
    del hub.files[CARD]
    hub.files["train.py"] = b"raise SystemExit"
    again = padless.load("hf://me/mine@main", engine="onnx")
    np.testing.assert_allclose(again.predict_proba(TEXTS), expected, atol=1e-6)
    assert not list((tmp_path / "cache").rglob("train.py"))


def test_a_folder_is_pushed_as_it_is_and_a_damaged_one_is_not(hub: Hub, run: Path, tmp_path: Path, capsys) -> None:
    assert export(run, "--output", tmp_path / "out", "--quiet") == 0
    (tmp_path / "out" / CARD).write_text("A better card.")
    assert export(tmp_path / "out", "--push", "me/mine", "--quiet") == 0
    assert hub.files[CARD] == b"A better card."
    hub.files.clear()
    (tmp_path / "out" / "vocabulary.arrow").write_bytes(b"")
    assert export(tmp_path / "out", "--push", "me/mine") == 3
    assert f"vocabulary.arrow: has 0 bytes, and {EXPORT} says" in capsys.readouterr().err
    assert hub.files == {}


def test_a_push_that_fails_leaves_the_folder(hub: Hub, run: Path, tmp_path: Path, capsys) -> None:
    hub.refuses = True
    assert export(run, "--output", tmp_path / "out", "--push", "me/mine") == 4
    said = capsys.readouterr().err
    assert "--push me/mine: the hub did not take it (" in said
    assert f"`python -m harness export {tmp_path / 'out'} --push me/mine` tries again" in said
    assert padless.load(tmp_path / "out").predict_proba(TEXTS).shape == (4, 2)


def test_a_push_without_a_token_or_the_library(hub: Hub, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert export(run, "--output", tmp_path / "out", "--push", "me/mine") == 2
    assert "--push: no token of the hub; log in with `hf auth login`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert export(run, "--output", tmp_path / "more", "--push", "me/mine") == 2
    assert "huggingface_hub cannot be imported here; pip install 'padless[hub]' brings it" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
    with pytest.raises(padless.UserError, match=r"hf://me/mine: huggingface_hub cannot be imported here; pip install"):
        ours.local("hf://me/mine")


def test_a_command_shows_no_bars_of_the_hub(hub: Hub, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """In a notebook they stay, and so they do where the environment asks for them."""
    assert export(run, "--output", tmp_path / "out", "--push", "me/mine", "--quiet") == 0
    predict = ["predict", "--run", "hf://me/mine", "a fine film", "--device", "cpu"]
    assert cli.run(main, predict) == 0
    assert capsys.readouterr().err == ""
    assert not are_progress_bars_disabled()
    padless.load("hf://me/mine@main")
    assert "Fetching" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", False)
    assert cli.run(main, [*predict[:2], "hf://me/mine@main", *predict[3:]]) == 0
    assert "Fetching" in capsys.readouterr().err


def test_addresses_that_hold_no_model(hub: Hub) -> None:
    with pytest.raises(padless.UserError, match="hf://mine: a model of the hub is named hf://OWNER/NAME"):
        padless.load("hf://mine")
    with pytest.raises(padless.UserError, match=r"hf://you/other: cannot be had \(.*404"):
        padless.load("hf://you/other")
    hub.files["config.json"] = b"{}"
    with pytest.raises(padless.UserError, match=r"bundle\.json: missing: .* is neither a run directory"):
        padless.load("hf://me/mine")
