# SPDX-License-Identifier: Apache-2.0
"""The commands around the job: inspect, fetch-nltk, help."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run_command, succeed
from tests.corpora import Command, reviews, write_csv
from tests.datasets import write_dataset

pytestmark = pytest.mark.thorough

HEAVY = {"torch", "accelerate", "matplotlib", "nltk", "scipy", "sklearn"}
LIGHT = {"msgspec", "numpy", "pandas", "pyarrow", "yaml"}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def dataset(tmp_path: Path, command: Command) -> Path:
    rows = [*reviews(300), ("word " * 100, "positive")]
    assert command.build(write_csv(tmp_path / "reviews.csv", rows), tmp_path / "out") == 0
    return tmp_path / "out"


def test_inspect_as_json(dataset: Path, command: Command) -> None:
    assert command("inspect", dataset, "--json", "--samples", 3) == 0
    found = json.loads(command.out)
    splits = found["splits"]
    assert {name: split["rows"] for name, split in splits.items()} == {"train": 241, "validation": 30, "test": 30}
    assert splits["test"]["labels"] == {"negative": 15, "positive": 15}
    assert sum(split["truncated"] for split in splits.values()) == 1
    assert splits["train"]["unknown_rate"] == 0 < splits["test"]["unknown_rate"]
    assert sum(splits["train"]["rows_per_width"].values()) == 241
    assert found["corpus"]["rows_read"] == 301
    assert found["frequent_tokens"][0]["count"] >= found["frequent_tokens"][1]["count"]
    texts = dict(enumerate(reviews(300), 1))
    for samples in found["samples"].values():
        assert len(samples) == 3
        for sample in samples:
            text, label = texts[sample["row"]]
            assert sample["label"] == label
            read, written = sample["text"].removesuffix(" …"), text.split()
            assert all(token in (word, "<unk>") for token, word in zip(read.split()[:20], written, strict=False))


def test_inspect_for_people(dataset: Path, command: Command) -> None:
    assert command("inspect", dataset) == 0
    assert "padding on disk" in command.out
    assert "rows read 301, kept 301; left out: none" in command.out


def test_inspect_draws(dataset: Path, tmp_path: Path, command: Command) -> None:
    assert command("inspect", dataset, "--plot", tmp_path / "out.png") == 0
    assert (tmp_path / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert command("inspect", dataset, "--plot", tmp_path / "out.png" / "below.png") == 2
    assert "out.png: cannot be written (it is a file, and a directory is needed here)" in command.sentence
    assert command("inspect", dataset, "--plot", dataset) == 2
    assert "(Is a directory); name another file with `inspect --plot`" in command.sentence


def test_a_dataset_without_statistics_is_inspected_too(tmp_path: Path, command: Command) -> None:
    write_dataset(tmp_path, {"train": 60, "test": 20})
    assert command("inspect", tmp_path) == 0
    assert command("inspect", tmp_path, "--json") == 0
    assert json.loads(command.out)["splits"]["test"]["rows"] == 20


def test_fetch_nltk_says_what_failed(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.downloader import Downloader, ErrorMessage

    fetched: list[tuple[str, str]] = []

    def pretend(self: Downloader, resource: str, download_dir: str) -> list[Any]:
        fetched.append((resource, download_dir))
        return [ErrorMessage(resource, "no route to host")] if resource == fails else []

    monkeypatch.setattr(Downloader, "incr_download", pretend)
    fails = ""
    assert command("fetch-nltk", "--dir", tmp_path) == 0
    assert fetched == [(name, str(tmp_path)) for name in ("stopwords", "wordnet", "punkt_tab")]
    fails = "wordnet"
    assert command("fetch-nltk", "--dir", tmp_path) == 1
    assert "fetch-nltk: wordnet: no route to host" in command.sentence


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "not_needed"),
    [(["--help"], LIGHT | HEAVY), (["run", "--help"], {"pandas"} | HEAVY), (["inspect", "--help"], HEAVY)],
)
def test_help_waits_for_no_library_that_it_does_not_need(arguments: list[str], not_needed: set[str]) -> None:
    """What takes the time of an answer, whatever else the machine does."""
    script = "import sys; from preprocessing.__main__ import main\n"
    script += "try: main(sys.argv[1:])\nfinally: print('loaded', *sys.modules)"
    result = succeed(run_command([sys.executable, "-c", script, *arguments], 60, {}))
    shown, _, loaded = result.stdout.rpartition("loaded")
    assert shown.startswith("usage")
    assert not_needed & set(loaded.split()) == set()


def test_run_help_prints_the_docstring_of_every_field(command: Command) -> None:
    with pytest.raises(SystemExit):
        command("run", "--help", "all")
    printed = " ".join(command.capsys.readouterr().out.split())
    assert "A token that occurs less often in the training split is read as <unk>." in printed
    assert "Longest wait for the next part to be finished before the job gives up" in printed
