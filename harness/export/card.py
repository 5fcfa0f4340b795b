# SPDX-License-Identifier: Apache-2.0
"""The model card: README.md in the format of the hub, YAML in front, all of it from the run's own records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from harness.export.front import front_matter
from harness.export.limits import limits
from harness.export.records import Card
from harness.rundir.bundle_files import INT8, ONNX
from harness.scores.figures import FIGURES, title_of
from harness.scores.tables import interval
from preprocessing.base.installed import VERSION
from preprocessing.base.printable import markdown, markdown_code, printable

CLASSES = 30
"""Classes that a table shows."""


def render(card: Card) -> str:
    """The whole file."""
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{head}---\n\n# {markdown(card.name)}\n\n{opening(card)}",
        f"## Use\n\n{use(card)}",
        f"## Results\n\n{results(card)}",
        f"## Data\n\n{data(card)}",
        f"## Model\n\n{model(card)}",
        f"## Limits\n\n{bullets(limits(card))}",
        f"## Files\n\n{files(card)}",
        f"## Provenance\n\n{provenance(card)}",
        f"## Licence\n\n{licence(card)}",
    ]
    return printable("\n\n".join(parts) + "\n")


def opening(card: Card) -> str:
    """What it is, in a sentence or two."""
    names = card.info.labels
    listed = ", ".join(map(markdown_code, names[:CLASSES])) + (", …" if len(names) > CLASSES else "")
    return (
        f"Tells {len(names)} classes of texts apart: {listed}. A recurrent network with {card.parameters:,} weights, "
        f"trained and exported with padless {VERSION}."
    )


def use(card: Card) -> str:
    """How to load it."""
    place = f"hf://{card.repository}" if card.repository else "path/of/this/folder"
    lines = ["```python", "import padless", "", f'model = padless.load("{place}")', 'model.predict(["a text"])', "```"]
    if ONNX in card.files:
        lines += [
            "",
            f"Where torch cannot be imported, `padless.load` takes `{ONNX}` by itself: ONNX Runtime, numpy, pandas and "
            'pyarrow are enough. With torch there, `padless.load(…, engine="onnx")` asks for it'
            + (', and `engine="onnx-int8"` for the quantized one.' if INT8 in card.files else "."),
        ]
    return "\n".join(lines)


def results(card: Card) -> str:
    """The figures with their intervals, and each class."""
    values = card.records.figures
    if not values:
        return "No evaluation of these weights lies beside them."
    bounds = values.get("intervals", {})
    rows: list[list[str]] = [["rows", f"{values['rows']:,}", ""]]
    rows += [
        [markdown(title_of(key, card.info.labels)), f"{values[key]:.4f}", interval(bounds.get(key))]
        for key in FIGURES
        if values.get(key) is not None
    ]
    text = f"On the split {markdown_code(values['split'])}, with the threshold and temperature below.\n\n"
    text += table(["", markdown(values["split"]), "95 %"], rows)
    if (linear := card.records.linear.get("accuracy")) is not None:
        around = interval(card.records.linear.get("intervals", {}).get("accuracy"))
        text += f"\n\nA linear model over TF-IDF of words and pairs has accuracy {linear:.4f} ({around}) there."
    if values["split"] != "test":
        text += "\n\nThese weights were chosen on this split, so its figures are better than those of new texts."
    if values.get("per_class"):
        shown = values["per_class"][:CLASSES]
        each = [
            [markdown(one["label"]), *(number(one[key]) for key in ("precision", "recall", "f1")), one["rows"]]
            for one in shown
        ]
        text += "\n\n" + table(["class", "precision", "recall", "F1", "rows"], each)
    return text


def data(card: Card) -> str:
    """What it learned from."""
    splits = card.records.training.get("splits", {})
    rows = []
    for name, split in splits.items():
        counts = [f"{markdown(label)} {count:,}" for label, count in list(split["labels"].items())[:CLASSES] if count]
        rows.append([markdown(name), f"{split['rows']:,}", ", ".join(counts)])
    text = table(["split", "rows", "by class"], rows) if rows else "The bundle does not say what it learned from."
    if card.records.sources:
        text += "\n\nMade from these files:\n\n"
        text += table(
            ["file", "rows", "sha256"],
            [[markdown(one["name"]), one["rows"], one["sha256"]] for one in card.records.sources],
        )
    soft = card.info.soft_labels
    if soft is not None:
        teacher = markdown(soft.get("teacher") or "another model")
        text += f"\n\nRows without labels were learned with soft labels of {teacher}."
    return text


def model(card: Card) -> str:
    """How it reads a text."""
    shape, spec = card.info.model, card.info.text["spec"]
    directions = "both directions" if shape["bidirectional"] else "one direction"
    ngrams = f"{shape.get('wide', 0):,} buckets of n-grams of up to {shape.get('wide_ngrams', 2)} words"
    if shape.get("wide_tail"):
        ngrams += f", those of the last {shape['wide_tail']} once more"
    if shape.get("wide_tf") == "binary":
        ngrams += ", however often"
    wide = f", beside a linear part with {ngrams}" if shape.get("wide") else ""
    read = [
        markdown_code(f"{name}: {spec[name]}")
        for name in ("tokenizer", "lowercase", "html", "stop_words", "lemmatizer")
    ]
    rows = [
        ["network", f"{shape['num_layers']} × {shape['cell']} of {shape['hidden_size']}, {directions}, pooling "
         f"{shape['pooling']}, embedding of {shape['embedding_dim']}{wide}"],
        ["text", ", ".join(read)],
        ["vocabulary", f"{card.info.vocabulary_size:,} entries"],
        ["longest text", f"{spec['max_tokens']} tokens, of a longer one the {kept(spec['truncate'])}"],
        ["temperature", f"{card.info.temperature:.4f}"],
    ]  # fmt: skip
    if len(card.info.labels) == 2:
        rows.append(["threshold", f"{card.info.threshold:.4f}, for {markdown_code(card.info.labels[1])}"])
    if card.info.vectors is not None:
        rows.append(["vectors at the start", markdown(str(card.info.vectors.get("source", "given")))])
    config = card.records.config
    if config:
        keys = {"epochs": config, "global_batch": config, "seed": config, "lr": config.get("optim", {})}
        rows.append(["training", ", ".join(f"{key} {where[key]}" for key, where in keys.items() if key in where)])
    return table(["", ""], rows)


def kept(truncate: str) -> str:
    """Which end of a long text is read."""
    return {"head": "beginning", "tail": "end"}.get(truncate, "beginning and the end")


def files(card: Card) -> str:
    """What lies in the folder, and what was measured of it."""
    rows = [
        [markdown_code(name), f"{said['bytes']:,}", f"`{said['sha256'][:16]}`"] for name, said in card.files.items()
    ]
    text = table(["file", "bytes", "sha256"], rows)
    if (onnx := card.files.get(ONNX)) is not None:
        text += (
            f"\n\n`{ONNX}` was held against torch on {onnx['texts']:,} random texts of every length up to "
            f"{onnx['longest']}: no probability differs by more than {onnx['difference']:.2g}."
        )
    if (small := card.files.get(INT8)) is not None:
        cost = small["cost"]
        whole = card.files[ONNX]["bytes"]
        measured = [
            ["accuracy", f"{cost['accuracy']:.4f}", f"{cost['accuracy_int8']:.4f}"],
            ["log loss", f"{cost['log_loss']:.4f}", f"{cost['log_loss_int8']:.4f}"],
            ["bytes", f"{whole:,}", f"{small['bytes']:,}"],
            ["rows/s", f"{cost['rows_per_s']:,.0f}", f"{cost['rows_per_s_int8']:,.0f}"],
        ]
        text += (
            f"\n\n`{INT8}` on the {cost['rows']:,} rows of the split `{cost['split']}`; labels that change: "
            f"{cost['changed']:,}. Speeds are those of the machine that exported, from ids.\n\n"
        )
        text += table(["", "fp32", "int8"], measured)
    return text


def provenance(card: Card) -> str:
    """Where it comes from, so that it can be traced."""
    info, environment = card.info, card.records.environment
    versions = environment.get("versions", {})
    known = {
        "weights (sha256)": info.weights_sha256,
        "dataset (fingerprint)": info.dataset,
        "text pipeline and vocabulary (hash)": info.text_hash,
        "optimizer steps": f"{info.step:,}",
        "code": environment.get("git_revision"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "started from": (info.started_from or {}).get("source"),
    }
    return table(["", ""], [[name, markdown(str(value))] for name, value in known.items() if value])


def licence(card: Card) -> str:
    """What may be done with it, as far as anybody said."""
    if card.license == "unknown":
        return (
            "None was named at export. The texts that a model learned from may forbid some uses of it: ask whoever "
            "exported it."
        )
    return f"{markdown_code(card.license)}, as named at export. padless itself is Apache-2.0."


def number(value: float | None) -> str:
    """Four places; nothing for what cannot be computed."""
    return "" if value is None else f"{value:.4f}"


def bullets(sentences: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown, whose cells are Markdown; a bar in a cell stays a bar."""
    cells = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(cell, row)) + " |" for row in cells)


def cell(value: Any) -> str:
    """A value in a table."""
    return "" if value is None else re.sub(r"(?<!\\)\|", r"\\|", str(value))
