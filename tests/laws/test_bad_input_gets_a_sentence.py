# SPDX-License-Identifier: Apache-2.0
"""Law 9: bad input gets a sentence. One line that names the file, row or key, what was wrong and what to do, a
documented exit code, no traceback, and nothing lost.

``mistakes.txt`` beside this file is the table of what tired users type: command, exit code, sentence. A mistake is
added as a line that begins with ``$``; ``python -m tests.laws.test_bad_input_gets_a_sentence`` writes the answers.
"""

from __future__ import annotations

import gzip
import io
import itertools
import re
import shlex
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import __main__ as harness
from harness.rundir.layout import BUNDLE
from tests.bundles import write_drawn
from tests.commands import run_command
from tests.corpora import contents
from tests.datasets import split_of
from tests.end_to_end import test_fingerprints as small

TABLE = Path(__file__).with_name("mistakes.txt")


def zip_of(name: str, content: bytes) -> bytes:
    """An archive of one file."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
    return archive.getvalue()


def parquet_of(labels: list[Any]) -> bytes:
    """A Parquet file of texts with these labels."""
    content = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": labels}), content)
    return content.getvalue()


def table_with_times(times: Iterable[object]) -> bytes:
    """Texts with a label and the time of each."""
    return small.table([(*row, time) for row, time in zip(small.ROWS, times, strict=False)], ("text", "label", "on"))


FILES = {
    "in.csv": small.table(),
    "floats.csv": small.table([(text, at * 0.37) for at, (text, _) in enumerate(small.ROWS)]),
    "equal.csv": small.table([("a fine film", label) for _, label in small.ROWS]),
    "paper.pdf": b"%PDF-1.7\n\0\xe2",
    "late.csv": table_with_times(itertools.repeat("2024-12-31")),
    "endless.csv": table_with_times([*range(20), "inf", *range(20)]),
    "thesis.zip": zip_of("thesis.docx", b""),
    "full/thesis.tex": b"",
    "begun/.lock": b"padless 7 host",
    "begun/config.yaml": b"data: data\n",
    "begun/status.json": b"{}",
    "begun/metrics.jsonl": b'{"kind": "train", "cost": 2}\n',
    "proj/config.yaml": b"mine: 1\n",
    "proj/metrics.jsonl": b'{"mine": 1}\n',
    "proj/test.json": b'{"mine": 1}\n',
    "proj/STOP": b"",
    "proj/checkpoints/step-00000001/model.pt": b"mine",
    "proj/in.csv.json": b"mine",
    "taken/messages.csv/mine": b"",
    "theirs/.work/lock": b"mine",
    "theirs/.work/notes": b"mine",
    "theirs/train/00000-w0064.arrow": b"mine",
    "many/seed-0/.lock": b"padless 7 host",
    "many/seed-0/config.yaml": b"{}",
    "many/seed-1/config.yaml": b"{}",
    "mine/train/00000-w0064.arrow": b"mine",
    "more.csv": b"text\nnew one\nnew two\n",
    "moved.csv": b"text,label,split\nsun,good,train\nwind,fair,train\nrain,bad,validation\nhail,bad,test\n",
    "said.csv": b"text,predicted\nnew one,good\n",
    "logits.csv": b"text,probability_good,probability_bad\nnew one,3.1,-2\nnew two,1,0\n",
    "three.csv": small.table(small.STARS),
    "mixed.yaml": b"data: {data: 3, three: 1}\n",
    "rare.csv": small.table([*[(text, "good") for text, _ in small.ROWS], *[("the same", "bad")] * 2]),
    "empty.csv": b"",
    "ragged.csv": small.table([*small.ROWS, ("one", "good", "more")]),
    "unlabelled.csv": small.table([*small.ROWS, ("one", "")]),
    "untexted.csv": small.table([*small.ROWS, ("", "good")]),
    "above.csv": b"# by me\n" + small.table(),
    "unmarked.csv": "text,label\na,b\n".encode("utf-16-le"),
    "cut.csv.gz": gzip.compress(small.table(), mtime=0)[:-20],
    "header.csv": b"text,label\n",
    "few.csv": small.table(small.ROWS[:3]),
    "dates.csv": small.table(
        [(text, f"{at % 7 + 1}.12.2024") for at, (text, _) in enumerate(small.ROWS)], ("text", "on")
    ),
    "one.csv": small.table([(text, "good") for text, _ in small.ROWS]),
    "open.csv": small.table() + b'"never closed,good\n' + small.table(),
    "broken.jsonl": small.objects() + b'{"text": "a"\n',
    "unknown.yaml": b"vocabulary: {min_cuont: 3}\n",
    "broken.yaml": b"a: [\n",
    "tabs.yaml": b"optim:\n\tlr: 0.1\n",
    "group.yaml": b"optim: 3\n",
    "colon.yaml": b"optim: lr: 0.1\n",
    "twice.yaml": b"epochs: 1\nepochs: 2\n",
    "both.yaml": b"optim: {lr: 0.1}\noptim.lr: 0.2\n",
    "topics.csv": small.table(
        [(*row, at % 3, at) for at, row in enumerate(small.ROWS)], ("text", "topic", "stars", "id")
    ),
    "keys.jsonl": small.objects() + b'{"review": "a", "label": 1}',
    "lists.json": b'[{"text": "a", "label": 1}]\n[{"text": "b", "label": 2}]',
    "texts.json": b'[{"text": "a", "label": 1}, "b"]',
    "half.jsonl": b'{"text": "a", "label": ["joy", "love"]}\n' * 9 + b'{"text": "b", "label": "joy"}\n',
    "late.jsonl": b'{"text": "a", "label": "joy"}\n{"text": "b", "label": "love"}\n' * 4000
    + b'{"text": "c", "label": ["joy", "love"]}\n',
    "half/a.parquet": parquet_of([["joy", "love"], ["love"]]),
    "half/b.parquet": parquet_of(["joy", "love"]),
    "half/c.parquet": parquet_of([[{"name": "joy"}], []]),
    "bytes.csv": small.table() + b"caf\xe9,good\n",
    "leaks.csv": small.table(
        [(*row, part) for part in ("train", "test") for row in small.ROWS], ("text", "label", "part")
    ),
    "tested.csv": small.table([("a", "good", "train"), ("b", "", "test")], ("text", "label", "split")),
    "predicted.csv": small.table(header=("text", "predicted")),
    **{
        name: small.table([(1, "t0", small.ROWS[0][1], correction)], ("row", "text_id", "label", "correction"))
        for name, correction in {"untouched.csv": "", "joy.csv": "joy", "foreign.csv": "remove"}.items()
    },
    "strange.csv": small.table([("fine film", "good"), *[("odd", "meh")] * 2, ("odd", "so so")]),
}


def mistakes() -> dict[str, str]:
    """Command line -> exit code and sentence."""
    lines = [line for line in TABLE.read_text().splitlines() if line and line[0] != "#"]
    return {line: following for line, following in itertools.pairwise([*lines, ""]) if line[0] == "$"}


def prepare(folder: Path) -> Path:
    """A folder with the files, a dataset ``data`` and a run ``run`` that the commands name."""
    with small.working_directory(folder, FILES):
        small.bundle_and_data(folder)
        small.prepare("in.csv --splits.folds 3", "folded")
        small.prepare("in.csv --splits.validation 0", "unmeasured")
        small.prepare("in.csv --source.unlabelled_path more.csv", "taught")
        small.prepare("in.csv --seed 1", "foreign")
        Path("loop").symlink_to("loop")
        Path("gone.html").symlink_to("nowhere")
        shutil.copytree("data", "worded")
        small.prepare("strange.csv --splits.validation 0 --splits.test 0", "odd")
        shutil.copyfile("odd/vocabulary.arrow", "worded/vocabulary.arrow")
        small.prepare("three.csv --vocabulary.base data --vocabulary.min_count auto", "three")
        small.prepare(
            "three.csv --vocabulary.base data --vocabulary.min_count auto --source.labels_separator ;", "moods"
        )
        write_drawn(Path("language", BUNDLE), Path("data"), language=True)
        shutil.copytree("data", "damaged")
        for shard in split_of("damaged", "test").shards:
            ids = shard.blocks[0].ids.tobytes()
            shard.path.write_bytes(shard.path.read_bytes().replace(ids, bytes(len(ids))))
    return folder


def answer(line: str, folder: Path) -> str:
    """Exit code and sentence of ``$ padless …`` in a prepared folder."""
    with small.working_directory(folder, {}):
        code, _, err = small.run_and_report(harness, *shlex.split(line)[2:]).partition(" ")
        assert not Path("new", "dataset.json").exists(), f"{line}: of what is refused"
        if Path("new").exists():
            work_names = {path.name for path in Path("new", ".work").iterdir()}
            assert work_names - {"lock", "job.json"}, "finished parts, or nothing"
            shutil.rmtree("new")
    sentences = [error.removeprefix("error: ") for error in err.splitlines() if error.startswith("error: ")]
    return " ".join([code, *sentences]).replace(str(folder), "HERE")


def main() -> None:
    """Write every answer anew."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare(Path(temporary).resolve())
        table_lines = [line for line in TABLE.read_text().splitlines() if line[:1] in ("", "#", "$")]
        with TABLE.open("w") as table:
            for line in table_lines:
                table.write(f"{line}\n" + (f"{answer(line, folder)}\n" if "$" in line[:1] else ""))


@pytest.fixture(scope="module")
def mistakes_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = prepare(tmp_path_factory.mktemp("here").resolve())
    files = contents(folder)
    yield folder
    unfinished = re.compile(r"/\.work/|^data\.building/")
    files_now = {name: data for name, data in contents(folder).items() if name in files or not unfinished.search(name)}
    assert files_now == files, "a refusal changes nothing"
    for work in folder.rglob(".work"):
        names = {path.name for path in work.rglob("*") if path.is_file()}
        assert names - {"lock", "job.json"}, "a refusal leaves finished parts, or nothing"


@pytest.mark.thorough
@pytest.mark.parametrize("line", mistakes())
def test_a_mistake_is_answered(line: str, mistakes_folder: Path) -> None:
    assert answer(line, mistakes_folder) == mistakes()[line]
    assert "padless-live" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["", "<&-", ">&-"])
def test_the_real_process_prints_one_line_and_no_traceback(tmp_path: Path, closed: str) -> None:
    words = f"-m preprocessing prepare --source.path absent.csv --output {tmp_path / 'out'}"
    result = run_command(["sh", "-c", f"exec {sys.executable} {words} {closed}"])
    assert (result.returncode, result.stderr) == (3, "error: absent.csv: no such file; check source.path\n")


if __name__ == "__main__":
    main()
