# SPDX-License-Identifier: Apache-2.0
"""The numbers of a page as JSON inside it: they come back as they were, and no text ends the element they stand in."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report.embedded import page_numbers, script_json
from harness.report.facts import Measured
from harness.report.marked import Mistake
from tests.unit.test_report_facts import facts

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
VALUES = st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=3)
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "-->",
    "]]>",
    "\u2028",
    "&lt;/script&gt;",
    "</SCRIPT >",
)


class Scripts(HTMLParser):
    """The contents of script elements, as a browser would take them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.inside = True
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def taken(text: str) -> list[str]:
    """What stands in the script elements of a page that holds ``text`` in one."""
    parser = Scripts()
    parser.feed(f'<p>before</p><script type="application/json">{text}</script><p>after</p>')
    parser.close()
    return parser.found


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    written = script_json(value)
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == value


def test_no_text_ends_the_element() -> None:
    for text in HOSTILE:
        (content,) = taken(script_json({text: [text]}))
        assert json.loads(content) == {text: [text]}
    assert len(taken(json.dumps(HOSTILE[0]))) == 2  # unescaped, it would


def test_what_json_cannot_hold_is_null() -> None:
    assert script_json({"a": float("nan"), "b": [float("inf"), (1.5, None)]}) == '{"a":null,"b":[null,[1.5,null]]}'


def test_a_run_is_there_with_curves_validation_and_config() -> None:
    train = [{"step": 1, "loss": 0.5, "lr": 0.1, "grad_norm": float("nan")}, {"step": 2, "loss": 0.25, "lr": 0.0}]
    run = facts(
        config={"seed": 3},
        train=train,
        speed=[{"step": 1, "rows_per_s": 10.0, "data_wait": 0.5}],
        validation=[{"step": 2, "accuracy": 0.75, "best": True}],
        fingerprint="f",
        status={"state": "finished", "step": 2},
    )
    numbers = json.loads(script_json(page_numbers([run], ["a name"], [[]])))
    assert (numbers["format"], numbers["format_version"]) == ("padless-report", 1)
    (found,) = numbers["runs"]
    assert found["curves"] == {
        "loss": {"step": [1, 2], "value": [0.5, 0.25]},
        "lr": {"step": [1, 2], "value": [0.1, 0.0]},
        "data_wait": {"step": [1], "value": [0.5]},
    }
    assert found["validation"] == [{"step": 2, "accuracy": 0.75, "best": True}]
    assert (found["name"], found["dataset"], found["config"], found["split"]) == ("a name", "f", {"seed": 3}, None)
    assert found["figures"] is None


def test_mistakes_carry_their_original_texts() -> None:
    entry = {"row": 7, "tokens": ["bad"], "weights": [1.0]}
    measured = Measured("test", {"accuracy": np.float64(0.5), "mistakes": [entry]}, facts().directory)
    shown = Mistake(7, "a", "b", 0.9, "So BAD!", 0, [], [])
    (found,) = page_numbers([facts(measured=measured)], ["run"], [[shown]])["runs"]
    assert found["figures"]["mistakes"] == [{**entry, "text": "So BAD!"}]
    assert measured.figures["mistakes"] == [entry]
