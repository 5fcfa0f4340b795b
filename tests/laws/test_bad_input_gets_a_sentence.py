# SPDX-License-Identifier: Apache-2.0
"""Law 9: bad input gets a sentence. One line that names the file, row or key, what was wrong and what to do, a
documented exit code, no traceback, and nothing lost.

``mistakes.txt`` beside this file is the table of what tired users type: exit code, what the sentence names, command.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.rundir.layout import BUNDLE
from padless import commands as harness
from tests.end_to_end import test_fingerprints as small
from tests.helpers.bundles import write_drawn
from tests.helpers.commands import run_command
from tests.helpers.corpora import contents
from tests.helpers.datasets import split_of

TABLE = Path(__file__).with_name("mistakes.txt")


FILES = {
    "in.csv": small.table(),
    "endless.csv": small.with_column("on", lambda number: "inf" if number == 20 else number),
    "thesis.zip": b"PK\x03\x04",
    "sheet.xlsx": b"PK\x03\x04",
    "full/thesis.tex": b"",
    "begun/.lock": b"padless 7 host",
    "begun/config.yaml": b"data: data\n",
    "begun/status.json": b"{}",
    "begun/metrics.jsonl": b'{"kind": "train", "cost": 2}\n',
    "proj/config.yaml": b"mine: 1\n",
    "proj/test.json": b'{"mine": 1}\n',
    "proj/checkpoints/step-00000001/model.pt": b"mine",
    "many/seed-0/.lock": b"padless 7 host",
    "many/seed-0/config.yaml": b"{}",
    "many/seed-1/config.yaml": b"{}",
    "mine/train/00000-w0064.arrow": b"mine",
    "more.csv": b"text\nnew one\nnew two\n",
    "moved.csv": b"text,label,split\nsun,good,train\nwind,fair,train\nrain,bad,validation\nhail,bad,test\n",
    "said.csv": b"text,predicted\nnew one,good\n",
    "logits.csv": b"text,probability_good,probability_bad\nnew one,3.1,-2\nnew two,1,0\n",
    "three.csv": small.table(small.STARS),
    "empty.csv": b"",
    "ragged.csv": small.table([*small.ROWS, ("one", "good", "more")]),
    "unlabelled.csv": small.table([*small.ROWS, ("one", "")]),
    "unmarked.csv": "text,label\na,b\n".encode("utf-16-le"),
    "cut.csv.gz": gzip.compress(small.table(), mtime=0)[:-20],
    "one.csv": small.table([(text, "good") for text, _ in small.ROWS]),
    "broken.jsonl": small.objects() + b'{"text": "a"\n',
    "unknown.yaml": b"vocabulary: {min_cuont: 3}\n",
    "tabs.yaml": b"optim:\n\tlr: 0.1\n",
    "group.yaml": b"optim: 3\n",
    "twice.yaml": b"epochs: 1\nepochs: 2\n",
    "both.yaml": b"optim: {lr: 0.1}\noptim.lr: 0.2\n",
    "topics.csv": small.with_column("stars", lambda number: number % 3).replace(b"label", b"topic", 1),
    "half.jsonl": b'{"text": "a", "label": ["joy", "love"]}\n' * 9 + b'{"text": "b", "label": "joy"}\n',
    "bytes.csv": small.table() + b"caf\xe9,good\n",
    "predicted.csv": small.table(header=("text", "predicted")),
    "strange.csv": small.table([("fine film", "good"), *[("odd", "meh")] * 2, ("odd", "so so")]),
}


MISTAKES = [line.split(" | ") for line in TABLE.read_text().splitlines() if line[:1].isdigit()]
CASES = [pytest.param(*row, id=row[-1], marks=[pytest.mark.processes] * ("--teacher" in row[-1])) for row in MISTAKES]


def prepare(folder: Path) -> Path:
    """A folder with the files, a dataset ``data`` and a run ``run`` that the commands name."""
    with small.working_directory(folder, FILES):
        small.bundle_and_data(folder)
        small.prepare("in.csv --source.unlabelled_path more.csv", "taught")
        small.prepare("in.csv --seed 1", "foreign")
        shutil.copytree("data", "worded")
        small.prepare("strange.csv --splits.validation 0 --splits.test 0", "odd")
        shutil.copyfile("odd/vocabulary.arrow", "worded/vocabulary.arrow")
        small.prepare(
            "three.csv --vocabulary.base data --vocabulary.min_count auto --source.labels_separator ;", "moods"
        )
        write_drawn(Path("language", BUNDLE), Path("data"), language=True)
        shutil.copytree("data", "damaged")
        for shard in split_of("damaged", "test").shards:
            ids = shard.blocks[0].ids.tobytes()
            shard.path.write_bytes(shard.path.read_bytes().replace(ids, bytes(len(ids))))
    return folder


def run_refused(words: list[str]) -> tuple[int, str]:
    """Exit code and sentence of a command that is refused in a prepared folder, where it may leave finished parts."""
    code, _, err = small.run_and_report(harness, *words).partition(" ")
    assert not Path("new", "dataset.json").exists(), "a dataset of what is refused"
    for work in Path().rglob(".work"):
        assert {path.name for path in work.iterdir()} - {"lock", "job.json"}, "finished parts, or nothing"
    shutil.rmtree("new", ignore_errors=True)
    (sentence,) = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
    return int(code), sentence


@pytest.fixture(scope="module")
def mistakes_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = prepare(tmp_path_factory.mktemp("here").resolve())
    files = contents(folder)
    yield folder
    unfinished = re.compile(r"/\.work/|^data\.building/")
    files_now = {name: data for name, data in contents(folder).items() if name in files or not unfinished.search(name)}
    assert files_now == files, "a refusal changes nothing"


@pytest.mark.thorough
@pytest.mark.parametrize(("code", "names", "line"), CASES)
def test_a_mistake_is_answered(code: str, names: str, line: str, mistakes_folder: Path) -> None:
    with small.working_directory(mistakes_folder, {}):
        exit_code, sentence = run_refused(shlex.split(line)[1:])
    assert exit_code == int(code), sentence
    assert [name for name in names.split(", ") if name not in sentence] == [], sentence
    assert "SECRET" not in sentence


@pytest.mark.processes
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_the_real_process_prints_one_line_and_no_traceback(tmp_path: Path, closed: str) -> None:
    words = f"-m padless prepare --source.path absent.csv --output {tmp_path / 'out'}"
    result = run_command(["sh", "-c", f"exec {sys.executable} {words} {closed}"])
    assert result.returncode == 3
    assert re.fullmatch("error: absent.csv: .*\n", result.stderr)
