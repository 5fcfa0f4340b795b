# SPDX-License-Identifier: Apache-2.0
"""The numbers of a page as JSON inside it, for whoever wants to go on with them instead of reading them off::

    json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])

A browser never runs a script of this type. No text can end it: every ``<`` is written as an escape of JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.curves import averaged
from harness.report.facts import RunFacts
from harness.report.marked import Mistake

FORMAT, FORMAT_VERSION = "padless-report", 1
CURVES = {"loss": "train", "lr": "train", "grad_norm": "train", "padding": "train"}
CURVES |= {"tokens_per_s": "speed", "data_wait": "speed", "mfu": "speed"}
"""Figure -> the lines that hold it."""
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def script_json(value: Any) -> str:
    """``value`` as JSON that may stand inside a script element; what JSON cannot hold is null."""
    return json.dumps(finite(value), allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def finite(value: Any) -> Any:
    """``value`` with None in place of nan and infinities."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page_numbers(
    runs: Sequence[RunFacts],
    names: Sequence[str],
    mistakes: Sequence[Sequence[Mistake]],
    spread: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that a page shows of ``runs``, in the order in which it shows them; ``spread`` is what they say together."""
    every = zip(runs, names, mistakes, strict=True)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **({} if spread is None else {"spread": spread}),
        "runs": [run_numbers(run, name, wrong) for run, name, wrong in every],
    }


def run_numbers(run: RunFacts, name: str, mistakes: Sequence[Mistake]) -> dict[str, Any]:
    """The numbers of one run: ``figures`` are those of ``SPLIT.json``, the mistakes with their original texts."""
    texts = {mistake.row: mistake.text for mistake in mistakes}
    measured = run.measured
    figures = dict(measured.figures) if measured is not None else None
    if figures is not None:
        figures["mistakes"] = [{**each, "text": texts.get(each["row"])} for each in figures["mistakes"]]
    lines = {"train": run.train, "speed": run.speed}
    curves = {name: averaged(lines[where], name) for name, where in CURVES.items()}
    return {
        "name": name,
        "directory": str(run.directory),
        "dataset": run.fingerprint,
        "status": run.status,
        "config": run.config,
        "environment": run.environment,
        "split": measured.split if measured is not None else None,
        "figures": figures,
        "linear": run.linear,
        "validation": run.validation,
        "curves": {name: {"step": steps, "value": values} for name, (steps, values) in curves.items() if steps},
        "speed": run.speed_summary,
    }
