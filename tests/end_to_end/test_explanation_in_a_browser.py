# SPDX-License-Identifier: Apache-2.0
"""The page of explanations in a real browser: on a phone and a screen, light and dark, with malicious texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.inference.explanation import Explanation, write_all

pytestmark = pytest.mark.processes

HARM = "fine <script>document.title = 'run'</script> <img src=x onerror=alert(1)> dull \x00\x1b[31m " + "long" * 60
STYLES = """() => [...document.querySelectorAll("article mark, .note mark")].map(mark => [
  getComputedStyle(mark).borderBottomStyle, mark.className])"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "why.html"
    dull = HARM.index("dull")
    one = Explanation(
        **{"text": HARM, "label": "<b>good</b>", "predicted": "bad", "probability": 0.4, "tokens": ("fine", "dull")},
        **{"spans": ((0, 4), (dull, dull + 4)), "scores": (1.0, -1.0), "logit": 0.5, "baseline": 0.5},
        num_tokens=2,
    )
    with open(path, "w", encoding="utf-8") as stream:
        assert write_all(stream, "html", "runs/mine", [one, one], numbered=True) == 2
    return path


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.slow)])
def test_it_is_readable_and_does_nothing(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.goto(page_file.as_uri())
    assert asked == [page_file.as_uri()]
    assert page.title() == "What words add: runs/mine"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shown = page.locator("article .padless-words").first.inner_text()
    assert shown == HARM.replace("\x00", "\\u0000").replace("\x1b", "\\u001b")
    head = page.locator("article").first.locator(".padless-head b").inner_text()
    assert head.startswith("<b>good</b> 0.4000 (predicted: bad)")
    styles = page.evaluate(STYLES)
    assert len(styles) == 6
    for line, kind in styles:
        assert line == {"for": "solid", "against": "dotted"}[kind]
    page.close()
