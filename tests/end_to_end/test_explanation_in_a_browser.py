# SPDX-License-Identifier: Apache-2.0
"""The page of explanations in a real browser: on a phone and a screen, light and dark, with texts that mean harm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.inference.explanation import Explanation, write_all

pytestmark = pytest.mark.processes

HARM = "fine <script>document.title = 'run'</script> <img src=x onerror=alert(1)> dull \x00\x1b[31m " + "long" * 60
STYLES = """() => [...document.querySelectorAll("article mark, .note mark")].map(mark => {
  const card = getComputedStyle(mark.closest("article") || document.body);
  const own = getComputedStyle(mark);
  return [own.color, own.backgroundColor, card.backgroundColor, own.borderBottomStyle, mark.className];
})"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "why.html"
    dull = HARM.index("dull")
    one = Explanation(
        **{"text": HARM, "label": "<b>good</b>", "predicted": "bad", "probability": 0.4, "tokens": ("fine", "dull")},
        **{"spans": ((0, 4), (dull, dull + 4)), "scores": (1.0, -1.0), "logit": 0.5, "baseline": 0.5},
        **{"num_tokens": 2, "points": 9},
    )
    with open(path, "w", encoding="utf-8") as stream:
        assert write_all(stream, "html", "runs/mine", [(1, one), (2, one)]) == 2
    return path


def channels(colour: str) -> list[float]:
    """Red, green, blue and opacity of a computed colour."""
    found = [float(number) for number in re.findall(r"[\d.]+", colour)]
    return found if len(found) == 4 else [*found, 1.0]


def luminance(colour: list[float]) -> float:
    """Relative luminance as WCAG 2 has it."""
    shares = [value / 255 for value in colour[:3]]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: str, mark: str, card: str) -> float:
    """Of letters on a mark that lets some of the card through."""
    over, under = channels(mark), channels(card)
    seen = [over[3] * top + (1 - over[3]) * below for top, below in zip(over[:3], under[:3], strict=True)]
    light, dark = sorted((luminance(channels(ink)), luminance(seen)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.slow)])
def test_it_is_readable_and_does_nothing(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
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
    for ink, mark, card, line, kind in styles:
        assert contrast(ink, mark, card) >= 4.5, json.dumps([ink, mark, card])
        assert line == {"for": "solid", "against": "dotted"}[kind]
    page.close()
