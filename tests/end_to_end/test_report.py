# SPDX-License-Identifier: Apache-2.0
"""The report of real runs: what it says, that its command makes the run again, and how a real browser shows it."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import __main__ as harness_main
from harness.report.page import write_report
from preprocessing.base import cli
from preprocessing.dataset.shards import read_manifest
from tests.commands import PLAIN, read_metrics, run_module, succeed
from tests.datasets import sentences, write_dataset
from tests.runs import train_to_end

pytestmark = pytest.mark.processes

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "<script>alert(1)</script>"
NAME = "<img src=x onerror=alert(2)>"
SMALL = (*PLAIN, "--model.embedding_dim", 8, "--model.hidden_size", 8, "--precision", "fp32", "--device", "cpu")
TRAINING = (*SMALL, "--global_batch", 32, "--optim.lr", 0.02, "--epochs", 2, "--tracking.log_every", 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    texts, labels = sentences(600, 2, seed=3, longest=60)
    texts = [f"{text} {'x' * 300}" for text in texts]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(place / "reviews.csv", index=False)
    names = json.dumps({HOSTILE: [0], "fine": [1]})
    source = ("--source.path", place / "reviews.csv", "--source.labels", names)
    succeed(run_module("preprocessing", "run", *source, "--output", place / "data", "--text.max_tokens", 64))
    return place / "data"


@pytest.fixture(scope="module")
def run(place: Path, data: Path) -> Path:
    succeed(train_to_end("--data", data, "--run", place / NAME, *TRAINING))
    return place / NAME


@pytest.fixture(scope="module")
def second(place: Path, data: Path) -> Path:
    run = place / "second"
    succeed(train_to_end("--data", data, "--run", run, *TRAINING, "--seed", 1, "--optim.lr", 0.01))
    return run


@pytest.fixture(scope="module")
def elsewhere(place: Path) -> Path:
    """A run of three labels on another dataset."""
    write_dataset(place / "three", {"train": 200, "validation": 60, "test": 60}, num_classes=3)
    run = place / "elsewhere"
    succeed(train_to_end("--data", place / "three", "--run", run, *TRAINING))
    return run


def words(path: Path) -> str:
    """The text of a page as a reader sees it: no tags, no style, single spaces."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", path.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_report_of_a_finished_run_says_what_its_files_say(run: Path, data: Path) -> None:
    page, test = words(run / "report.html"), json.loads((run / "test.json").read_text())
    for name, shown in (("accuracy", "Accuracy"), ("roc_auc", "ROC AUC"), ("log_loss", "Log loss")):
        low, high = test["intervals"][name]
        assert f"{shown} {test[name]:.4f} {low:.4f} to {high:.4f}" in page
    assert f"from {test['calibration']['ece_before']:.4f} to {test['ece']:.4f}" in page
    assert f"fingerprint {read_manifest(data).fingerprint}" in page
    for entry in test["slices"]:
        assert f"{entry['name']} {entry['rows']:,} {entry['accuracy']:.4f}" in page
    for mistake in test["mistakes"]:
        assert f"row {mistake['row']}: {mistake['label']} , predicted {mistake['predicted']} with" in page
        assert " ".join(mistake["tokens"]) in page
    assert "optim.lr 0.02" in page
    assert (run / "report.html").stat().st_size < 2e6


def test_names_and_texts_are_shown_and_never_run(run: Path) -> None:
    content = (run / "report.html").read_text()
    assert HOSTILE not in content
    assert NAME not in content
    assert html.escape(HOSTILE) in content
    assert f"<h1><bdi>{html.escape(NAME)}</bdi></h1>" in content


def test_its_command_makes_the_same_run_again(run: Path, place: Path) -> None:
    content = html.unescape((run / "report.html").read_text())
    line = next(line for line in content.splitlines() if line.startswith("python -m harness launch"))
    arguments = shlex.split(line.removesuffix("</code></pre>"))[3:]
    succeed(run_module("harness", *arguments))
    ours, theirs = (read_metrics(path, "train") for path in (run, Path(f"{run}-again")))
    for name in ("step", "loss", "row_hash"):
        assert [line[name] for line in ours] == [line[name] for line in theirs]
    text = re.search(r"dataset\.yaml</summary>\s*<pre><code>(.*?)</code></pre>", content, re.DOTALL)
    assert text is not None
    (place / "dataset.yaml").write_text(text[1])
    built = ("--config", place / "dataset.yaml", "--output", place / "rebuilt")
    succeed(run_module("preprocessing", "run", *built))
    assert read_manifest(place / "rebuilt").fingerprint == read_manifest(place / "data").fingerprint


def test_two_runs_side_by_side(run: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "both.html"
    assert cli.run(harness_main.main, ["report", str(run), str(second), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"written to {output}\n"
    page = words(output)
    tests = [json.loads((path / "test.json").read_text()) for path in (run, second)]
    shown = " ".join(
        f"{test['accuracy']:.4f} {test['intervals']['accuracy'][0]:.4f} to {test['intervals']['accuracy'][1]:.4f}"
        for test in tests
    )
    assert f"Accuracy {shown}" in page
    assert "optim.lr 0.02 0.01" in page
    assert "not comparable" not in page
    best = re.findall(r'<span class="best">([\d.]+)</span>', output.read_text())
    assert f"{max(test['accuracy'] for test in tests):.4f}" == best[0]


def test_runs_on_different_datasets_are_marked(run: Path, elsewhere: Path, tmp_path: Path) -> None:
    output = write_report([run, elsewhere], tmp_path / "apart.html")
    assert "different datasets: their figures are shown side by side but are not comparable" in words(output)
    assert 'class="best"' not in output.read_text()
    assert re.findall(r'<b class="badge">(\w)</b>', output.read_text()) == ["A", "B"]


def test_a_run_under_way_is_shown_as_far_as_it_is(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "under way"
    shutil.copytree(run, copy)
    for name in ("test.json", "test-predictions.parquet", "report.html"):
        (copy / name).unlink()
    (copy / "status.json").write_text(json.dumps({"state": "preempted", "exit_code": 85, "reason": "", "step": 12}))
    starts = [{"attempt": 1, "started": 1.7e9, "resumed_from": None, "processes": 2, "host": "n1"}]
    starts += [{"attempt": 2, "started": 1.7e9 + 60, "resumed_from": 8, "processes": 4, "host": "n2"}]
    (copy / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while it wrote
    page = words(write_report([copy]))
    assert "preempted at step 12" in page
    assert "No test results" in page
    assert "2 2023-11-14 22:14:20 UTC 8 4 n2" in page


def break_matplotlib() -> None:
    """In a rank: it cannot be imported."""
    sys.modules["matplotlib"] = None  # type: ignore[assignment]


def test_a_run_ends_well_where_no_chart_can_be_drawn(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--data", data, "--run", run, *TRAINING, "--epochs", 1)
    result = succeed(train_to_end(*arguments, before=break_matplotlib))
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: no report written (import of matplotlib halted")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not (run / "report.html").exists()


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_cannot_be_shown_gets_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config", "metrics", "empty", "version", "line"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "config" / "config.yaml").unlink()
    (tmp_path / "metrics" / "metrics.jsonl").unlink()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    change(tmp_path / "version" / "test.json", format_version=9)
    (tmp_path / "line" / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "cost": 2}\n')
    expected = {
        "config": "config.yaml: missing: .* is not a run directory",
        "metrics": "metrics.jsonl: missing: .* has no metrics; name the directory of a run that has logged something",
        "empty": "metrics.jsonl: holds no metrics: this run has logged nothing yet",
        "version": r"test\.json: another version of padless wrote it",
        "line": r"metrics\.jsonl: line 1 is not one of this padless: another version wrote it",
    }
    for name, pattern in expected.items():
        assert cli.run(harness_main.main, ["report", str(tmp_path / name)]) == 3
        assert re.match(rf"error: .*{pattern}", capsys.readouterr().err)
    assert cli.run(harness_main.main, ["report"]) == 2
    said = "error: no run named: python -m harness report RUN [RUN …] takes one run directory or several\n"
    assert capsys.readouterr().err == said


def relative_luminance(colour: str) -> float:
    """Of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    values = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)} on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright to drive a browser")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=60_000)
        yield launched
        launched.close()


@pytest.fixture(scope="module", params=["alone", "three labels", "side by side", "different datasets"])
def page_file(request: pytest.FixtureRequest, run: Path, second: Path, elsewhere: Path, place: Path) -> Path:
    runs = {
        "alone": [run],
        "three labels": [elsewhere],
        "side by side": [run, second],
        "different datasets": [run, second, elsewhere],
    }[request.param]
    return write_report(runs, place / f"{request.param}.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_a_browser_without_network_shows_it_whole(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    try:
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.resolve().as_uri())
        for opened in (False, True):
            page.evaluate("open => document.querySelectorAll('details').forEach(part => part.open = open)", opened)
            assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth") == width
        assert said == []
        assert asked == [page_file.resolve().as_uri()]
        charts = page.evaluate("[...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().width)")
        assert len(charts) >= 7
        assert all(250 < chart <= 460 for chart in charts)
        assert page.evaluate("document.querySelectorAll('h1 *:not(bdi), td bdi *, th bdi *').length") == 0
        colours = page.evaluate(
            "[getComputedStyle(document.querySelector('section')).backgroundColor,"
            " ...['svg text', 'td', '.note', '.interval'].map(name => {"
            "   const part = document.querySelector(name), style = getComputedStyle(part);"
            "   return name === 'svg text' ? style.fill : style.color; })]"
        )
        card, *inks = map(relative_luminance, colours)
        assert (card > 0.5) == (scheme == "light")
        for ink in inks:  # WCAG 2 asks for 4.5
            assert (max(card, ink) + 0.05) / (min(card, ink) + 0.05) > 4.5
    finally:
        context.close()
