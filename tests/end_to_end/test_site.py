# SPDX-License-Identifier: Apache-2.0
"""The documentation as a site: it builds, a broken link ends the build, and a real browser shows and searches it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ROOT, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]

DEEP = "reference/training.html"
QUIET = {"NO_MKDOCS_2_WARNING": "1"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """``mkdocs build`` as ``make docs`` does it, to another place. With ``--quiet`` it would pass over warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(site)]
    return run_command(command, 900, QUIET)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    result = succeed(build(ROOT / "mkdocs.yml", directory))
    assert "WARNING" not in result.stderr
    return directory


def test_every_page_is_there_and_search_knows_every_option(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text())
    places = {entry["location"] for entry in index["docs"]}
    assert {"index.html", "tutorial/index.html", "how-to/slurm.html", "from-python.html"} <= places
    assert {f"{DEEP}#optim.class_weights", "reference/commands.html#harness-checkpoint"} <= places
    fetched = re.compile(r'<(?:link|script|img|iframe)\b[^>]*(?:href|src)="((?:https?:)?//[^"]*)"')
    found = {(path.name, address) for path in site.rglob("*.html") for address in fetched.findall(path.read_text())}
    assert found == set()


def test_a_broken_link_an_anchor_a_picture_and_a_lost_page_end_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    del config["watch"]
    config["hooks"] = [str(ROOT / hook) for hook in config["hooks"]]
    options = next(one["mkdocstrings"] for one in config["plugins"] if "mkdocstrings" in one)["handlers"]["python"]
    options["paths"] = [str(ROOT)]
    options["options"]["extensions"] = [str(ROOT / name) for name in options["options"]["extensions"]]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write(
            "\n[a](nowhere.md) [b](security.md#no-such-heading) ![c](pictures/none.svg) [d](../harness/none.py)\n"
        )
    (tmp_path / "docs/lost.md").write_text("# Lost\n")
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == 1
    warnings = [line for line in result.stderr.splitlines() if "WARNING" in line]
    for planted in ("nowhere.md", "no-such-heading", "pictures/none.svg", "../harness/none.py"):
        assert sum(planted in line for line in warnings) == 1, result.stderr
    assert "lost.md" in result.stderr
    assert len(warnings) == 5, result.stderr


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser without network; it must ask for nothing but files and find no error."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    opened = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
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
