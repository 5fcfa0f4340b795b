# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing run`` and ``check``: the job, and the proof that a dataset is whole, as commands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from preprocessing.base.errors import DataError
from preprocessing.base.printable import public, tell
from preprocessing.base.screen import Screen
from preprocessing.config import EMBEDDED, PreprocessConfig
from preprocessing.dataset import remote
from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from preprocessing.job import pipeline
from preprocessing.job.quality import in_words


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Verify every byte of a dataset; each problem is a line, and the exit code is 3."""


def run(config: PreprocessConfig, words: list[str]) -> None:
    """Build a dataset directory from labelled texts; run it again to continue after an interruption.

    ``words`` are files beside those of ``source.path``, or in the place of its default.
    """
    if words:
        named = [] if config.source.path == [EMBEDDED] else list(config.source.path)
        config = replace(config, source=replace(config.source, path=[*named, *words]))
    manifest = pipeline.run(config)
    summary = f"{public(config.output)}: {pipeline.summary_line(manifest)}, vocabulary {manifest.vocabulary_size:,}"
    Screen(quiet=config.quiet).say(summary)
    for line in in_words(manifest):
        Screen(errors=True).say(line)


def check(_: CheckConfig, words: list[str]) -> int:
    """Verify a dataset; returns the exit code."""
    (address,) = words
    root = remote.local(address)
    problems = verify(root)
    for problem in problems:
        tell(f"error: {problem}")
    if problems:
        return DataError.exit_code
    print(f"ok: {public(address)}: {pipeline.summary_line(read_manifest(root))}")
    return 0
