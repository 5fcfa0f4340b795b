# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: it builds, a broken link ends the build, and a real browser shows and searches it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, read_json, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]

DEEP = "reference/training.html"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run ``mkdocs build`` like ``make docs``, into another folder. With ``--quiet`` it would ignore warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    return run_command(command, 900, QUIET)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    result = succeed(build(ROOT / "mkdocs.yml", directory))
    assert "WARNING" not in result.stderr
    return directory


def test_every_page_is_there_and_search_knows_every_option(site: Path) -> None:
    index = read_json(site / "search/search_index.json")
    places = {entry["location"] for entry in index["docs"]}
    assert {"index.html", "tutorial/index.html", "how-to/slurm.html", "from-python.html"} <= places
    assert {f"{DEEP}#optim.class_weights", "reference/commands.html#padless-runs"} <= places
    fetched = re.compile(r'<(?:link|script|img|iframe)\b[^>]*(?:href|src)="((?:https?:)?//[^"]*)"')
    found = {(path.name, address) for path in site.rglob("*.html") for address in fetched.findall(path.read_text())}
    assert found == set()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A browser page without network; it may only request files and must have no errors."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    opened = context.new_page()
    asked = []
    wrong = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert wrong == []


def test_search_works_from_the_disk(site: Path, page: Any) -> None:
    page.goto((site / "index.html").as_uri())
    page.click("input.md-search__input")
    page.locator("input.md-search__input").press_sequentially("class_weights")  # it listens to keys
    page.wait_for_selector(".md-search-result__item a")
    links = page.eval_on_selector_all(".md-search-result__item a", "links => links.map(link => link.href)")
    assert any(f"{DEEP}" in link and "optim.class_weights" in link for link in links), links
