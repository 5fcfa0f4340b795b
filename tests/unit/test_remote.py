# SPDX-License-Identifier: Apache-2.0
"""Remote addresses, against a real S3 API on loopback: read in pieces, write manifest last, share one cache."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import http.server
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.config import RunConfig
from harness.data import order
from harness.launch import launcher
from harness.rundir.records import read_run_config, write_config
from harness.training.preflight import list_changes
from padless.commands import COMMANDS
from padless.core.configuration import options_of
from padless.core.errors import ConfigError, DataError, UserError
from padless.core.installed import load_object
from preprocessing.dataset.remote import open_split
from preprocessing.dataset.shards import Split
from preprocessing.dataset.views import read_data
from preprocessing.sources import addresses
from preprocessing.sources.addresses import CACHE_VARIABLE, LIMIT_VARIABLE
from tests.helpers.corpora import Command, contents, reviews, write_csv, write_jsonl
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import final, start, wait_for_step

pytestmark = pytest.mark.thorough

moto = pytest.importorskip("moto.server", reason="needs moto[server] (extra dev)")
pytest.importorskip("s3fs", reason="needs s3fs (extra remote)")
ROWS = reviews(300, words=12)
SPLITS = ("--source.part_mb", 0.005)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """The file system of an S3 server of our own, which every child process finds through its environment."""
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "for-the-test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = s3fs.S3FileSystem()
        client.mkdir("corpus")
        yield client
    server.stop()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return Command(capsys)


def upload(s3: Any, path: Path, key: str) -> str:
    s3.put_file(str(path), f"corpus/{key}")
    return f"s3://corpus/{key}"


@pytest.mark.processes
def test_a_remote_source_gives_the_rows_of_a_local_one(s3: Any, tmp_path: Path, command: Command) -> None:
    csv_file = write_csv(tmp_path / "a.csv", ROWS[:100])
    packed_file = tmp_path / "b.jsonl.gz"
    packed_file.write_bytes(gzip.compress(write_jsonl(tmp_path / "b.jsonl", ROWS[100:200]).read_bytes()))
    texts, labels = zip(*ROWS[200:], strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "c.parquet", row_group_size=40)
    local_files = [csv_file, packed_file, tmp_path / "c.parquet"]
    for path in local_files:
        upload(s3, path, f"read/{path.name}")
    local = command.build(f"[{','.join(map(str, local_files))}]", tmp_path / "here", *SPLITS)
    remote = command.build("s3://corpus/read/*", tmp_path / "there", *SPLITS, "--executor.workers", 2)
    assert local.fingerprint == remote.fingerprint
    sources = remote.provenance["sources"]
    assert [entry["rows"] for entry in sources] == [100, 100, 100]
    assert "etag" in sources[2]["fingerprint"]


def copy_dataset(s3: Any, root: Path, address: str) -> str:
    """Copy a dataset to an address."""
    for path in contents(root):
        s3.put_file(str(root / path), f"{address.removeprefix('s3://')}/{path}")
    return address


@pytest.fixture
def remote_dataset(s3: Any, tmp_path: Path, command: Command) -> str:
    command.build(write_csv(tmp_path / "a.csv", ROWS), tmp_path / "here")
    return copy_dataset(s3, tmp_path / "here", f"s3://corpus/{tmp_path.name}")


def test_a_remote_dataset_is_checked_and_inspected(remote_dataset: str, command: Command) -> None:
    assert command("inspect", remote_dataset, "--verify") == 0
    assert command.out.startswith(f"ok: {remote_dataset}: train 240")
    assert command("inspect", remote_dataset) == 0


def test_a_damaged_remote_shard_is_named_and_not_kept(
    s3: Any, remote_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PAUSES_S", (0.0,))
    shard = f"{remote_dataset}/train/00000-w0016.arrow"
    data = bytearray(s3.cat_file(shard))
    data[len(data) // 2] ^= 1
    s3.pipe_file(shard, bytes(data))
    with pytest.raises(DataError, match=f"{shard}: its bytes are not those that were published"):
        open_split(remote_dataset, read_data(remote_dataset), "train").column("row")
    assert hashlib.sha256(data).hexdigest() not in [path.name for path in tmp_path.glob("cache/files/*/*")]
    assert len([*tmp_path.glob("cache/files/*/*")]) == 3, "manifest, index and vocabulary"


class FlakyStore:
    """Every third request for a file fails."""

    def __init__(self, system: Any, fetches: Counter[str]) -> None:
        self.system, self.fetches = system, fetches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def get_file(self, path: str, target: str) -> None:
        self.fetches[path] += 1
        if self.fetches.total() % 3 == 0:
            raise TimeoutError("slow down")
        self.system.get_file(path, target)


@pytest.fixture
def fetches() -> Counter[str]:
    """Requests for each file."""
    return Counter()


@pytest.fixture
def remote_data(
    s3: Any, fetches: Counter[str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """``tmp_path / "data"`` at a remote address that often fails, and a cache of a third of it."""
    rows = {"train": 900, "validation": 150, "test": 150}
    write_dataset(tmp_path / "data", rows, widths=(*range(8, 65, 4),), block_rows=16)
    size = sum(path.stat().st_size for path in tmp_path.glob("data/*/*"))
    monkeypatch.setenv(LIMIT_VARIABLE, str(size / 3e9))
    monkeypatch.setattr(addresses, "PAUSES_S", (0.01,) * 9)
    find_system = addresses.remote_system

    def flaky_system(address: str) -> tuple[Any, str]:
        system, path = find_system(address)
        return FlakyStore(system, fetches), path

    monkeypatch.setattr(addresses, "remote_system", flaky_system)
    yield copy_dataset(s3, tmp_path / "data", f"s3://corpus/{tmp_path.name}-far")
    assert sum(path.stat().st_size for path in tmp_path.glob("cache/files/*/*")) <= size / 3


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(280, func_only=True)
def test_a_training_on_remote_data_is_the_local_one_bit_for_bit(remote_data: str, tmp_path: Path) -> None:
    """Killed and resumed too."""
    assert start(tmp_path / "data", tmp_path / "here" / "run").wait(120) == 0
    address: Any = remote_data
    process = start(address, tmp_path / "there" / "run")
    wait_for_step(process, tmp_path / "there" / "run", 70)
    process.kill()
    assert start(address, tmp_path / "there" / "run").wait(200) == 0, (tmp_path / "there" / "log").read_text()
    assert final(tmp_path / "there" / "run") == final(tmp_path / "here" / "run")


def test_an_unknown_protocol_and_a_missing_driver_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"zz://a/b.csv: no driver for zz://"):
        addresses.find_file_info("zz://a/b.csv")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"hf://datasets/a: no driver for hf:// .*padless\[remote\]"):
        addresses.find_file_info("hf://datasets/a")


def test_records_of_a_run_hold_no_secrets_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = RunConfig(data=SECRET_ADDRESS, run=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    write_config(config)
    assert not [name for name, content in contents(tmp_path).items() if b"SECRET" in content or b"HIDDEN" in content]
    facts = {"dataset": "", "config": read_run_config(config.run), "order_version": order.VERSION}
    assert list_changes(config, facts) == {}


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[int]:
    """The port of a web server for a folder, while the block runs."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", port), partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_store_that_is_away_for_a_while(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked again, and a line says so; in the end the exit code is that of a job that may start again."""
    write_dataset(tmp_path / "www" / "data", {"train": 60, "validation": 20}, block_rows=16)
    expected = Split(tmp_path / "www" / "data", read_data(tmp_path / "www" / "data"), "train").column("row")
    with served(tmp_path / "www") as port:
        address = f"http://127.0.0.1:{port}/data"
        manifest = read_data(address)
    monkeypatch.setattr(addresses, "PAUSES_S", ())
    assert read_data(address) == manifest, "it is not asked for again"
    with pytest.raises(UserError, match="its store does not answer") as failure:
        open_split(address, manifest, "train").column("row")
    assert failure.value.exit_code == 1
    monkeypatch.setattr(addresses, "PAUSES_S", (0.05,) * 200)
    monkeypatch.setattr(addresses, "REPORTED_PAUSE_S", 0.05)
    with ThreadPoolExecutor() as thread:
        rows = thread.submit(lambda: open_split(address, manifest, "train").column("row"))
        time.sleep(0.2)
        with served(tmp_path / "www", port=port):
            assert rows.result(60).tolist() == expected.tolist()
            assert f"{address}/train/" in capsys.readouterr().err
            assert command("prepare", f"{address}.csv", "-o", tmp_path / "none") == 3, "what is missing"


SECRET_ADDRESS = "http://me:SECRET@127.0.0.1:1/a.csv?token=HIDDEN"


def test_no_command_says_the_secrets_of_an_address(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever key or word it stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "PAUSES_S", ())
    monkeypatch.setattr(launcher.Launch, "run", lambda _: 0)  # before any rank
    write_dataset(tmp_path / "data", {"train": 60, "validation": 20, "unlabelled": 20})
    num_commands = 0
    for entry in COMMANDS:
        config_class = load_object(entry.config)
        options = options_of(config_class)
        subject = "data" if "data" in getattr(config_class, "SUBJECT", ()) else "run"
        keys = [key for key, option in options.items() if {str, list} & option.kinds]
        for words in ([SECRET_ADDRESS], *([subject, f"--{key}", SECRET_ADDRESS] for key in keys)):
            code = command(entry.name, *words)
            said = command.out + command.err
            num_commands += code > 0
            assert "SECRET" not in said, (entry.name, words, said)
            assert "HIDDEN" not in said, (entry.name, words, said)
    assert num_commands > 100
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
