# SPDX-License-Identifier: Apache-2.0
"""Remote addresses, against a real S3 API on loopback: read in pieces, write manifest last, share one cache."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.cache import CACHE_VARIABLE
from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from tests.corpora import Command, contents, reviews, write_csv, write_jsonl

pytestmark = pytest.mark.thorough

moto = pytest.importorskip("moto.server", reason="needs moto[server] (extra dev)")
pytest.importorskip("s3fs", reason="needs s3fs (extra remote)")
ROWS = reviews(300, words=12)
SPLITS, WORKERS = ("--source.part_mb", 0.005), ("--executor.workers", 2)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """The file system of an S3 server of our own, which every child process finds through its environment."""
    import s3fs

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
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


def test_a_remote_source_gives_the_rows_of_a_local_one(s3: Any, tmp_path: Path, command: Command) -> None:
    plain = write_csv(tmp_path / "a.csv", ROWS[:100])
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(write_jsonl(tmp_path / "b.jsonl", ROWS[100:200]).read_bytes()))
    columns = {"text": [text for text, _ in ROWS[200:]], "label": [label for _, label in ROWS[200:]]}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet", row_group_size=40)
    here = [plain, packed, tmp_path / "c.parquet"]
    there = [upload(s3, path, f"read/{path.name}") for path in here]
    assert command.build(f"[{','.join(map(str, here))}]", tmp_path / "here", *SPLITS) == 0  # type: ignore[arg-type]
    assert command.build(f"[{','.join(there)}]", tmp_path / "there", *SPLITS) == 0, command.err  # type: ignore[arg-type]
    manifests = [read_manifest(tmp_path / name) for name in ("here", "there")]
    assert manifests[0].fingerprint == manifests[1].fingerprint
    sources = manifests[1].provenance["sources"]
    assert [entry["rows"] for entry in sources] == [100, 100, 100]
    assert "etag" in sources[2]["fingerprint"]


@pytest.mark.processes
def test_globs_workers_and_what_is_missing(s3: Any, tmp_path: Path, command: Command) -> None:
    for place in range(3):
        upload(s3, write_csv(tmp_path / f"{place}.csv", ROWS[place * 100 : place * 100 + 100]), f"glob/{place}.csv")
    assert command.build("s3://corpus/glob/*.csv", tmp_path / "out", *SPLITS, *WORKERS) == 0  # type: ignore[arg-type]
    assert read_manifest(tmp_path / "out").statistics["rows_read"] == 300
    for name, said in (
        ("glob/9.csv", "no such file; check source.path"),
        ("*/9.csv", "no file matches; check the pattern"),
    ):
        assert command.build(f"s3://corpus/{name}", tmp_path / "other") == 3  # type: ignore[arg-type]
        assert command.sentence == f"s3://corpus/{name}: {said}"


@pytest.fixture
def published(s3: Any, tmp_path: Path, command: Command) -> str:
    address = f"s3://corpus/{tmp_path.name}"
    assert command.build(write_csv(tmp_path / "a.csv", ROWS), address) == 0, command.err  # type: ignore[arg-type]
    return address


def test_a_remote_output_is_published_checked_and_inspected(published: str, tmp_path: Path, command: Command) -> None:
    source = tmp_path / "a.csv"
    assert command.build(source, tmp_path / "here") == 0
    assert contents(remote.local(published)) == contents(tmp_path / "here")
    assert command("check", published) == 0
    assert command.out.startswith(f"ok: {published}: train 240")
    assert command("inspect", published) == 0
    assert command.build(source, published, "--seed", 1) == 2  # type: ignore[arg-type]
    assert "holds a dataset of another configuration" in command.sentence


def test_a_publication_that_fails_leaves_the_old_dataset(
    s3: Any, published: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, naming = remote.manifest_bytes(published), remote.names
    assert command.build(tmp_path / "a.csv", tmp_path / "other", "--seed", 1) == 0
    with monkeypatch.context() as patch:
        patch.setattr(remote, "names", lambda *of: [*naming(*of), "absent"])
        with pytest.raises(DataError, match="no such file"):
            remote.publish(tmp_path / "other", published)
    assert remote.manifest_bytes(published) == before
    assert verify(remote.local(published)) == []
    remote.publish(tmp_path / "other", published)
    assert remote.manifest_bytes(published) == (tmp_path / "other" / "dataset.json").read_bytes()
    assert contents(remote.local(published)) == contents(tmp_path / "other")
    assert [path for path in s3.find("corpus") if remote.STAGING in path] == []


def test_a_damaged_remote_shard_is_named_and_not_kept(s3: Any, published: str, tmp_path: Path) -> None:
    shard = f"{published}/train/00000-w0016.arrow"
    data = bytearray(s3.cat_file(shard))
    data[len(data) // 2] ^= 1
    s3.pipe_file(shard, bytes(data))
    with pytest.raises(DataError, match=r"the copy is not what the manifest says: .*00000-w0016.arrow"):
        remote.local(published, tmp_path / "fresh")
    assert [name for name in contents(tmp_path / "fresh") if not name.endswith(".lock")] == []


def test_an_unknown_protocol_and_a_missing_driver_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"zz://a/b.csv: no driver for zz://"):
        addresses.find("zz://a/b.csv")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"hf://datasets/a: no driver for hf:// .*padless\[remote\]"):
        addresses.find("hf://datasets/a")


def test_the_password_of_an_address_is_neither_written_nor_said(tmp_path: Path, command: Command) -> None:
    import fsspec

    data = write_csv(tmp_path / "reviews.csv", reviews(120)).read_bytes()
    fsspec.filesystem("memory").pipe("/me:SECRET@host/reviews.csv", data)
    address: Any = "memory://me:SECRET@host/reviews.csv"
    assert command.build(address, tmp_path / "out", "--source.part_mb", 0.005) == 0
    assert "SECRET" not in command.out + command.err
    assert read_manifest(tmp_path / "out").provenance["sources"][0]["name"] == "memory://host/reviews.csv"
    assert not [name for name, content in contents(tmp_path / "out").items() if b"SECRET" in content]
    assert command.build(f"{address}.csv", tmp_path / "none") == 3  # type: ignore[arg-type]
    assert command.sentence == "memory://host/reviews.csv.csv: no such file; check source.path"
