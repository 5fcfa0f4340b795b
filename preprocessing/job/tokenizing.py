# SPDX-License-Identifier: Apache-2.0
"""The first pass: the source is cut into parts, and each part is read and tokenized once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.base.errors import DataError
from preprocessing.base.screen import Screen
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses, sources
from preprocessing.corpus.rows import check_number
from preprocessing.corpus.sources import Part, Plan
from preprocessing.job import parts
from preprocessing.job.executors import Workers
from preprocessing.job.output import UNPACKED
from preprocessing.job.progress import Progress
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer

KEPT = threading.local()
"""The tokenizer of each thread, kept between parts."""
LOADING = threading.Lock()
"""One thread at a time loads language data."""


@dataclass(frozen=True)
class TokenTask:
    """Work of the first pass: one part."""

    number: int
    part: Part
    work: Path
    pipeline: str
    """The text pipeline as JSON."""
    seed: int
    key: str


def tokenizer_of(pipeline: str) -> Tokenizer:
    """This thread's tokenizer. It remembers the words it has seen, so it is kept from one part to the next."""
    kept: tuple[str, Tokenizer] | None = getattr(KEPT, "tokenizer", None)
    if kept is None or kept[0] != pipeline:
        with LOADING:
            kept = pipeline, Tokenizer(TextPipeline.from_json(json.loads(pipeline)))
        KEPT.tokenizer = kept
    return kept[1]


def tokenize(task: TokenTask) -> parts.Summary:
    """Read and tokenize one part."""
    tokenizer = tokenizer_of(task.pipeline)
    return parts.make(task.part, task.number, task.work, tokenizer, task.seed, task.key)


def scan(files: list[sources.File], workers: Workers, work: Path) -> list[Plan]:
    """Count and cut every file of the source."""
    tasks = [(number, file, work / UNPACKED) for number, file in enumerate(files)]
    plans = {}
    for (number, _, _), plan in workers.map(scan_file, tasks, what="scan", tick=lambda alive: None):
        plans[number] = plan
    return [plans[number] for number in range(len(tasks))]


def scan_file(task: tuple[int, sources.File, Path]) -> Plan:
    """Count and cut one file."""
    return sources.scan(task[1], task[2])


def tokenize_all(
    config: PreprocessConfig,
    pipeline: TextPipeline,
    workers: Workers,
    work: Path,
    files: list[sources.File],
    plans: list[Plan],
    screen: Screen,
) -> tuple[list[Part], list[parts.Summary]]:
    """Read and tokenize every part that is not done yet. Fills ``plans`` if it is empty; progress is on ``screen``."""
    cut: list[Part] = []
    done: dict[int, parts.Summary] = {}
    total = sum(addresses.identity(file.address)["bytes"] or 0 for file in files) if not plans else 0
    progress = Progress("tokenize", total or sum(part.bytes for plan in plans for part in plan.parts), screen=screen)
    described = json.dumps(pipeline.to_json())

    def tasks() -> Iterator[TokenTask]:
        """The parts that are not done yet."""
        for number, part in enumerate(find_parts(files, plans, work / UNPACKED)):
            cut.append(part)
            key = parts.part_key(part, pipeline.hash, config.seed)
            summary = parts.finished(work, number, key)
            if summary:
                done[number] = summary
                progress.skip(part.bytes)
            else:
                yield TokenTask(number, part, work, described, config.seed, key)

    found: set[str] = set()
    for task, summary in workers.map(tokenize, tasks(), what="tokenize", tick=progress.tick):
        done[task.number] = summary
        if config.source.label_map() is None:
            found.update(summary.classes)
            check_number(found, task.part.file)
        progress.advance(summary.rows, task.part.bytes)
    progress.close()
    if not cut:
        raise DataError(f"{', '.join(file.name for file in files)}: the corpus is empty: no row to learn from")
    return cut, [done[number] for number in range(len(cut))]


def find_parts(files: list[sources.File], plans: list[Plan], stage: Path) -> Iterator[Part]:
    """Every part in order. Without plans there is one file: it is scanned meanwhile, its plan put into ``plans``."""
    if plans:
        yield from sources.numbered(plans)
        return
    found = sources.iter_parts(files[0], stage)
    while True:
        try:
            part = next(found)
        except StopIteration as stop:
            plans.append(stop.value)
            return
        if part.cut.rows:
            yield part
