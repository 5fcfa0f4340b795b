# SPDX-License-Identifier: Apache-2.0
"""What a model is not good for, as far as its records show it."""

from __future__ import annotations

from typing import Any

from harness.export.records import Card
from preprocessing.base.printable import markdown, markdown_code, percent

WEAKEST = 3
TRAIN = "train"


def limits(card: Card) -> list[str]:
    """Sentences, the most general first."""
    spec, labels = card.info.text["spec"], card.info.labels
    found = [
        f"It answers with one of its {len(labels)} classes whatever it reads, a text about anything else included.",
        f"It knows texts like those it learned from, in the language {markdown_code(card.language)}; how it does on "
        "others was not measured here.",
    ]
    train = card.records.training.get("splits", {}).get(TRAIN, {})
    longest, lengths = spec["max_tokens"], train.get("lengths", {})
    cut = lengths.get(str(longest), 0)
    share = f"; {percent(cut / train['rows'])} of the training texts had as many or more" if cut else ""
    found.append(f"Of a text it reads at most {longest} tokens{share}.")
    if train.get("unknown_rate") is not None:
        rate = percent(train["unknown_rate"])
        found.append(f"Words that are not in its vocabulary are all the same to it: {rate} of the training tokens.")
    slices = [one for one in card.records.figures.get("slices", []) if isinstance(one.get("accuracy"), float)]
    for one in sorted(slices, key=lambda each: each["accuracy"])[:WEAKEST]:
        low, high = one["accuracy_interval"]
        found.append(
            f"One of its weakest groups: {one['rows']:,} texts {group(one)}, accuracy {one['accuracy']:.4f} "
            f"({low:.4f} to {high:.4f})."
        )
    ece = card.records.figures.get("ece")
    if isinstance(ece, float):
        found.append(f"Its probabilities are off by {ece:.4f} on average (expected calibration error).")
    return found


def group(one: dict[str, Any]) -> str:
    """A group of rows (``scores.figures.subgroups``) in words that go after "texts"."""
    if one["by"] == "length":
        return f"of {markdown(one['name'])}"
    return f"with {markdown(one['name'])} words" if one["by"] == "unknown" else f"of the class {markdown(one['name'])}"
