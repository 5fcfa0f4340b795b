# SPDX-License-Identifier: Apache-2.0
"""``python -m harness predict``: raw text in, probability out, through the code and vocabulary of the training."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.inference.hub import local
from harness.inference.outputs import rows_of
from harness.inference.pieces import CHUNK_ROWS, decoded
from harness.inference.predict import Predictor, predictions, unknown_shares
from harness.inference.scorers import engine_of
from harness.predicting import inputs, parts, place
from harness.predicting.config import STDIN, PredictConfig
from harness.predicting.parts import Made, Opening, Task
from harness.predicting.place import Place
from harness.predicting.plan import Plan, filled, read_plan
from harness.predicting.scorers import scorer_class
from harness.rundir.bundle_files import BundleInfo, bundle_directory, check_classifier, read_info
from harness.rundir.results import probability_column
from harness.rundir.training_facts import DIALECT, Reading
from preprocessing.base import stopping
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import counted, percent, plain_line, public, tell
from preprocessing.base.screen import Screen, cells, shortened
from preprocessing.job.executors import available_cores, workers
from preprocessing.job.progress import Progress
from preprocessing.labels import as_found

if TYPE_CHECKING:
    from harness.ranks.distributed import World

AVAILABLE_BYTES = 1 << 16
"""Most that is taken from standard input at once; less where less has come."""
FEWEST, MOST = 20, 80
"""Cells of a text that a line to read shows at least, and where its output is no terminal."""


def main(config: PredictConfig, texts: list[str]) -> int:
    """Predict the texts given, or every row of the input, with the best weights of a run."""
    config = replace(config, run=str(local(config.run)))
    if texts == [STDIN] and config.input is None:
        texts, config = [], replace(config, input=STDIN)
    if bool(texts) == (config.input is not None):
        raise ConfigError('nothing to predict, or two things: give texts ("a fine film") or --input FILE --output FILE')
    if config.input is not None and config.output is not None:
        predict_here(config)
        return 0
    predictor = Predictor(config.run, config.batch, config.engine)
    for some in [texts] if texts else lines_of_stdin():
        show(predictor, some, config.json)
    return 0


def show(predictor: Predictor, texts: list[str], as_json: bool) -> None:
    """Print a line for each text."""
    encoded, screen = predictor.scorer.encode(texts), Screen()
    columns, unknown = predictions(predictor.scorer, encoded), unknown_shares(encoded)
    for text, values, share in zip(texts, rows_of(columns, len(texts)), unknown.tolist(), strict=True):
        if as_json:
            print(json.dumps({"text": text, **values, "unknown_share": round(share, 4)}))
            continue
        label = as_found(values["predicted"]) or ""
        head = f"{plain_line(label)}  {values[probability_column(label)]:.4f}  "
        head += "(no known word)  " if share == 1 else ""
        screen.write([head + shortened(text, max(screen.width - cells(head), FEWEST) if screen.is_live else MOST)])
    sys.stdout.flush()


def lines_of_stdin() -> Iterator[list[str]]:
    """The texts on standard input, one a line, as many at a time as have come. Raises ``DataError`` for no text."""
    if sys.stdin.isatty():
        print("one text a line; Ctrl-D ends", file=sys.stderr)
    stdin: Any = sys.stdin.buffer
    rest, number = b"", 0
    while piece := stdin.read1(AVAILABLE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for start in range(0, len(lines), CHUNK_ROWS):
            some = lines[start : start + CHUNK_ROWS]
            yield [text_of(line, at) for at, line in enumerate(some, number + 1)]
            number += len(some)
    if rest:
        yield [text_of(rest, number + 1)]
    elif not number:
        raise DataError("standard input: holds no text; give one a line")


def text_of(line: bytes, number: int) -> str:
    """The text of a line of standard input."""
    mark = b"\xef\xbb\xbf" if number == 1 else b""
    return decoded(line.removeprefix(mark).removesuffix(b"\r"), f"standard input: line {number}")


@dataclass(frozen=True)
class Job:
    """A plan, where it is carried out, and which of its parts are there already."""

    place: Place
    plan: Plan
    opening: Opening
    done: dict[int, Made]

    @property
    def left(self) -> list[int]:
        """The parts that are still to be made, in order."""
        return [number for number in range(len(self.plan.parts)) if number not in self.done]

    def task(self, number: int) -> Task:
        """A part as work for anybody."""
        path, marker = self.place.part(number, len(self.plan.parts)), self.place.marker(number)
        plan = self.plan.only(number)
        return Task(number, plan, self.plan.key, self.opening, path, marker, str(self.place.target))


def predict_here(config: PredictConfig) -> None:
    """Predict with the processes of this machine, or with a Dask cluster.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    screen = Screen(quiet=config.quiet)
    with claimed(config) as found:
        job = begun(config, found)
        if job is None:
            screen.say(f"{found.target}: these predictions are there already; nothing to do")
            return
        default = 1 if job.opening.settled["device"] == "cuda" else min(available_cores(), worth(job, config))
        progress = progress_of(job, job.left, config)
        same = "the same command without --overwrite" if config.overwrite else "the same command"
        kept = f"finished parts are kept in {found.work}; {same} goes on"
        with stopping.keeping(kept), workers(config.workers(default), quiet=config.quiet) as crew:
            tasks = (job.task(number) for number in job.left)
            for task, made in crew.map(parts.make, tasks, what="predicting", tick=progress.tick):
                job.done[task.number] = made
                progress.advance(made.rows, task.plan.parts[0].bytes)
        end(progress, len(job.plan.parts))
        finish(job, screen)


def worth(job: Job, config: PredictConfig) -> int:
    """How many processes have a part's worth of work: starting one takes seconds."""
    left = sum(job.plan.parts[number].bytes for number in job.left)
    return max(1, min(len(job.left), int(left / (config.part_mb * 1e6))))


def predict_on_ranks(config: PredictConfig, world: World) -> None:
    """Predict on every rank: each makes its share of the parts; rank 0 plans and puts them together.

    What a lost rank has not made is made at the next start, by whoever then has it in its share.
    """
    screen = Screen(quiet=config.quiet or not world.is_main)
    config = replace(config, run=str(local(config.run)))
    job: Job | None = None
    with ExitStack() as stack:
        with world.together("claiming the output"):
            found = stack.enter_context(claimed(config) if world.is_main else nullcontext(place.place_of(config)))
        with world.together("planning the predictions"):
            job = begun(config, found) if world.is_main else None
        left = world.from_main(None if job is None else job.left, "the parts that are left")
        if left is None:
            screen.say(f"{found.target}: these predictions are there already; nothing to do")
            return
        with world.together("predicting"):
            job = job or opened(config, found)
            own = left[world.rank :: world.world_size]
            progress = progress_of(job, own, replace(config, quiet=screen.quiet))
            for number in own:
                task = job.task(number)
                made = parts.make(task)
                progress.advance(made.rows, task.plan.parts[0].bytes)
                progress.tick(world.world_size)
            end(progress, len(job.plan.parts))
        with world.together("putting the parts together"):
            if world.is_main:
                finish(replace(job, done=verified(job.place, job.plan, thorough=False)), screen)


@contextmanager
def claimed(config: PredictConfig) -> Iterator[Place]:
    """The output, held against others."""
    found = place.place_of(config)
    with place.claimed(found):
        yield found


def begun(config: PredictConfig, found: Place) -> Job | None:
    """The plan that lies there, or a new one, and the parts that are whole; None if all of it is there already.

    Raises ``ConfigError`` where something else was begun there, ``DataError`` for the first row that cannot be read.
    """
    screen = Screen(errors=True, quiet=config.quiet)
    opening, directory = opening_of(config), bundle_directory(config.run)
    info = read_info(directory)
    check_classifier(directory, info)
    place.refuse_inputs(found, config.inputs)
    if config.overwrite:
        place.clear(found, parts=True)
    old = read_plan(found.work / place.PLAN)
    if old is None:
        place.clear(found, parts=False)
    reading = inputs.reading_by(config, directory, info)
    listed = inputs.find(config, reading, found.work, (found.target.absolute(), found.work))
    place.refuse_inputs(found, [one.source.name for one in listed])
    plan = planned(config, found, opening, info, reading, listed)
    if old is None and not config.overwrite:
        place.refuse_replacing(found, plan)
    if place.is_whole(found, plan):
        place.discard(found)
        return None
    if old is not None:
        place.check_same(found, old, plan)
        old.check_sources(listed, found.work / place.PLAN)
        job = Job(found, old, opening, verified(found, old))
        total = counted(len(old.parts), "part")
        screen.say(f"continuing: {len(job.done):,} of {total} are there")
        return job
    for one in listed:
        if one.form:
            screen.say(f"input: {public(one.source.name)}: {one.form}")
    size = sum(one.identity.get("bytes") or sum(length for _, length in one.texts) for one in listed)
    progress = Progress("looking at the input", size, screen=screen)

    def tick(rows: int, size: int) -> None:
        progress.advance(rows, size)
        progress.tick(1)

    if found.is_folder:
        found.manifest.unlink(missing_ok=True)  # it would speak of parts that are being replaced
    plan = filled(plan, listed, max(1, int(config.part_mb * 1e6)), tick)
    progress.screen.end()
    plan.write(found.work / place.PLAN)
    return Job(found, plan, opening, {})


def opened(config: PredictConfig, found: Place) -> Job:
    """The plan that rank 0 has made, as another rank sees it."""
    plan = read_plan(found.work / place.PLAN)
    if plan is None:
        raise DataError(
            f"{found.work}: this rank does not see the plan of rank 0; write to a disk that all machines share"
        )
    return Job(found, plan, opening_of(config), {})


def opening_of(config: PredictConfig) -> Opening:
    """Whose weights predict, and how, on this machine. Raises ``ConfigError`` or ``DataError``."""
    engine = engine_of(bundle_directory(config.run), config.engine)
    settled = scorer_class(engine).settle(config.device, config.precision)
    return Opening(engine, config.run, settled, config.batch)


def planned(
    config: PredictConfig,
    found: Place,
    opening: Opening,
    info: BundleInfo,
    reading: Reading,
    listed: Sequence[inputs.Input],
) -> Plan:
    """All that decides the predictions, without the parts."""
    wanted = inputs.wanted_by(config, reading, keep=config.missing == "keep")
    names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
    settings = {
        **{name: getattr(config, name) for name in ("format", "missing", "prefix", "part_mb", "batch")},
        **{name: getattr(reading.source, name) for name in ("encoding", *DIALECT, "columns")},
        "dialect": reading.dialect and asdict(reading.dialect),
        **{"column": wanted.columns, "output": found.kind, "scorer": opening.scorer, **opening.settled},
    }
    weights = {
        "sha256": info.weights_sha256,
        "text": info.text_hash,
        "labels": [info.label_type, *info.labels],
        "decision": [info.temperature, info.threshold],
    }
    basis = {"inputs": [[public(one.source.name), one.kind, one.identity] for one in listed], "weights": weights}
    return Plan(json.loads(json.dumps({**basis, "settings": settings})), found.kind, False, names, wanted)


def verified(found: Place, plan: Plan, *, thorough: bool = True) -> dict[int, Made]:
    """The parts that are there and whole; ``thorough``: whose bytes are those that were written."""
    number_of = len(plan.parts)
    known = {
        number: parts.made(found.marker(number), found.part(number, number_of), plan.key, thorough=thorough)
        for number in range(number_of)
    }
    return {number: made for number, made in known.items() if made is not None}


def progress_of(job: Job, numbers: Sequence[int], config: PredictConfig) -> Progress:
    """How far the parts of these numbers are."""
    screen = Screen(errors=True, quiet=config.quiet)
    return Progress("predicting", sum(job.plan.parts[number].bytes for number in numbers), screen=screen)


def end(progress: Progress, number_of_parts: int) -> None:
    """Say how long it took, where that was long enough to be shown at all."""
    if number_of_parts > 1:
        progress.close()
    else:
        progress.screen.end()


def finish(job: Job, screen: Screen) -> None:
    """Put everything together, and say what there is. Raises ``DataError`` for a part that was made elsewhere."""
    of = len(job.plan.parts)
    for number in range(of):
        if number not in job.done or not job.place.part(number, of).is_file():
            what = "is not seen here; name an --output on a disk that all who predict share"
            raise DataError(f"{job.place.part(number, of)}: {what}")
    found = [job.done[number] for number in range(of)]
    place.finish(job.place, job.plan, found)
    settled = job.opening.settled
    if (difference := place.greatest(found)) is not None:
        what = "and no probability of the rows that were also computed in fp32 differs by more than"
        screen.say(f"computed in {settled['precision']} on {settled['device']}, {what} {difference:.2g}")
    screen.say(f"{job.plan.rows:,} predictions written to {job.place.target}")
    if unread := sum(one.without_known_word for one in found):
        share = percent(unread / job.plan.rows)
        tell(f"warning: {unread:,} of {job.plan.rows:,} texts ({share}) hold no word that the model knows")
