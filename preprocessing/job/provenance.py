# SPDX-License-Identifier: Apache-2.0
"""What a dataset was made of and with. No times and no machine: equal runs write equal bytes."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from preprocessing.base.printable import public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.sources import Part, Plan
from preprocessing.job.parts import Summary

BASE = "vocabulary_base"
"""What a manifest's provenance calls the facts of ``vocabulary.base``."""
MADE_WITH = ("padless", "numpy", "pyarrow")


def provenance(
    config: PreprocessConfig, plans: list[Plan], cut: list[Part], summaries: list[Summary]
) -> dict[str, Any]:
    """Sources with their sizes and fingerprints, the configuration, and the versions of what did the work."""
    contents = {plan.file.address: 0 for plan in plans if plan.file.format == "folder"}
    for part, summary in zip(cut, summaries, strict=True):
        if part.file.address in contents:
            contents[part.file.address] += int(summary.content, 16)
    entries, first = [], 1
    for plan in plans:
        entry: dict[str, Any] = {"name": plan.file.name, "format": plan.file.format, "split": plan.file.split}
        if plan.file.form and (read_as := plan.file.form.recorded(plan.file.expected)):
            entry["read_as"] = read_as
        if plan.file.is_unlabelled and plan.file.source.text_column != config.source.text_column:
            entry["text_column"] = plan.file.source.text_column
        entry |= {"bytes": plan.bytes, "rows": plan.rows, "first_row": first, "fingerprint": plan.fingerprint}
        if plan.file.address in contents:
            entry["sum_of_sha256"] = f"{contents[plan.file.address] % (1 << 256):064x}"
        entries.append(entry)
        first += plan.rows
    versions = {name: version_of(name) for name in MADE_WITH}
    return {"sources": entries, "config": public_values(config.deciding()), "versions": versions}


def version_of(distribution: str) -> str:
    """The installed version of a package, or that it runs from a checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
