# SPDX-License-Identifier: Apache-2.0
"""Local files through Arrow, remote ones through fsspec: find, measure, open. All remote bytes are read here."""

from __future__ import annotations

import glob
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import ArrowException, NativeFile, fs

from padless.core.errors import ConfigError, DataError, UserError
from padless.core.installed import require_package
from padless.core.terminal import print_stderr
from padless.core.untrusted import check_regular, check_unpacked, one_line, sha256_of

READ_BYTES = 8 << 20
"""Bytes of a read; a remote file that has no more is read whole."""
CODEC_BY_SUFFIX = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
COMPRESSED_SUFFIXES = tuple(CODEC_BY_SUFFIX)
UNKNOWN_BYTES = 1 << 28
"""Assumed size of a file if the server does not report it."""
REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HUB = "hf://"
UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""What no name has: a zero byte, bytes that are not UTF-8."""
FAILURES = (OSError, ArrowException, UnicodeDecodeError)
LASTING = (UserError, PermissionError, IsADirectoryError, ImportError, ValueError, TypeError, LookupError)
"""Failures that another attempt would meet again."""
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
"""Longest pauses between the attempts of a remote request: two minutes together."""
REPORTED_PAUSE_S = 2.0
"""From this pause on, people are told that a store does not answer."""
MAX_WRONG_READS = 2
"""Attempts after which wrong bytes are taken for those of the file, not of a bad connection."""
NO_RANGES = "its server sends whole files where a part is asked for; copy the files here, and name the copy"
REFUSED = re.compile("credentials|validation failed")
"""In errors of S3's driver about what it was given."""
T = TypeVar("T")


@contextmanager
def naming(address: str, name: str | None = None) -> Iterator[None]:
    """Raise read errors as a ``DataError`` that names the address, and as a ``UserError``, whose exit code lets a job
    start again, if the store did not answer; remote drivers raise exceptions of any type.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, FAILURES) and not is_remote(address):
            raise
        if is_remote(address) and is_outage(error):
            problem = f"its store does not answer ({one_line(error.__cause__ or error)}); check network and address"
            raise UserError(f"{name or address}: {problem}, and run this again") from None
        if "range requests" in str(error):  # of fsspec
            raise DataError(f"{name or address}: {NO_RANGES}") from None
        problem = absence(address) if isinstance(error, FileNotFoundError) else one_line(error)
        is_packed = without_query(address).lower().endswith(COMPRESSED_SUFFIXES)
        hint = "; end its name as what it is, or pack or copy it again" if is_packed else ""
        raise DataError(f"{name or address}: {problem}{hint}") from None


def absence(address: str) -> str:
    """The reason why there is nothing at an address."""
    if address == "-":
        return "standard input is not read here, only files"
    return "no such file" + (
        ", or its server gives it to others" if address.startswith(("http://", "https://")) else ""
    )


def is_outage(error: BaseException | None) -> bool:
    """Whether a request that failed so may succeed later: no connection, a 429, a server's own error."""
    if isinstance(error, FileNotFoundError):  # fsspec raises it for any failure of a web server
        error = error.__cause__
    status = getattr(error, "status", getattr(getattr(error, "response", None), "status_code", None))
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    return error is not None and not isinstance(error, LASTING) and not REFUSED.search(str(error))


def ask(address: str, request: Callable[[], T]) -> T:
    """The result of a request; a remote one is repeated while the store does not answer, and once for wrong bytes.

    Raises as ``naming`` does.
    """
    with naming(address):
        for number, pause in enumerate(PAUSES_S if is_remote(address) else (), 1):
            try:
                return request()
            except Exception as error:
                if not (is_outage(error) or (isinstance(error, DataError) and number < MAX_WRONG_READS)):
                    raise
                if pause >= REPORTED_PAUSE_S:
                    reason = one_line(error.__cause__ or error)
                    print_stderr(f"{address}: no answer ({reason}); it is asked again in {pause:.0f} s")
            time.sleep(pause * random.uniform(0.5, 1.0))  # processes that failed together ask again apart
        return request()


def is_remote(address: str) -> bool:
    """Whether an address names a protocol other than the local file system."""
    return bool(REMOTE.match(address))


def without_query(address: str) -> str:
    """A web address without query and fragment, such as the signature of a presigned one; others unchanged."""
    return re.split("[?#]", address, maxsplit=1)[0] if address.startswith(("http://", "https://")) else address


def remote_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address, and the path on it. Raises ``ConfigError`` if there is no driver."""
    with naming(address):
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, TypeError) as error:  # TypeError: a driver that needs more than an address
            problem = f"no driver for {address.partition(':')[0]}:// ({one_line(error)})"
            raise ConfigError(f"{address}: {problem}; pip install 'padless[remote]'") from None
    return system, path


def local_path(address: str) -> str:
    """The path of a local address. Raises ``DataError`` for a name that is not UTF-8."""
    if not address or UNUSABLE.search(address):
        raise DataError(f"{address!r}: no file has such a name, or it is not UTF-8; rename it")
    path = Path(os.path.expanduser(address))
    return str(path.absolute() if ":" in address else path)  # Arrow takes a relative a:b for a URI


def absolute(address: str) -> str:
    """The absolute address."""
    return address if is_remote(address) else str(Path(local_path(address)).absolute())


def prefix(address: str, path: str) -> str:
    """The prefix, such as ``s3://``, that turns paths of this file system into addresses."""
    address = address.rstrip("/")
    return address.removesuffix(path) if address.endswith(path) else ""


def find_files(address: str) -> list[str]:
    """The files of an address: itself, or the sorted matches of its glob.

    As in :mod:`glob`, ``*``, ``?`` and ``[…]`` match within one name and ``**`` any number of folders. An existing name
    is not read as a glob. Raises ``DataError`` if no file matches.
    """
    if is_remote(address):
        system, path = remote_system(address)
        find = partial(system.glob, path)
    else:
        path = local_path(address)
        find = partial(glob.glob, path, recursive=True)
    if not glob.has_magic(without_query(path)) or kind(address) != fs.FileType.NotFound:
        return [address]
    matches = [prefix(address, path) + name for name in sorted(ask(address, find))]
    if files := [name for name in matches if kind(name) != fs.FileType.Directory]:
        return files
    raise DataError(f"{address}: no file matches; check the pattern")


def list_folder(address: str) -> list[tuple[str, fs.FileInfo]]:
    """All files below a folder, with their addresses; none if it does not exist.

    Raises ``DataError`` for names not in UTF-8.
    """
    if is_remote(address):
        system, path = remote_system(address)
        infos = [file_info(details) for details in ask(address, partial(system.find, path, detail=True)).values()]
    else:
        path = local_path(address)
        with naming(address):
            infos = fs.LocalFileSystem().get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return [(prefix(address, path) + info.path, info) for info in infos if info.type == fs.FileType.File]


def file_info(details: dict[str, Any]) -> fs.FileInfo:
    """What fsspec says of a file or folder, as Arrow says it."""
    is_folder = details["type"] == "directory"
    file_type = fs.FileType.Directory if is_folder else fs.FileType.File
    return fs.FileInfo(details["name"], file_type, size=details.get("size"), mtime=details.get("mtime"))


def details_of(address: str) -> dict[str, Any]:
    """What its store says of a remote file; empty if it has none."""
    system, path = remote_system(address)

    def request() -> dict[str, Any]:
        try:
            details: dict[str, Any] = system.info(path)
        except FileNotFoundError as error:
            if is_outage(error):
                raise
            return {}
        return details

    return ask(address, request)


def info_of(address: str) -> fs.FileInfo:
    """Type, size and time of a file. Raises ``DataError`` for what is neither a file nor a folder."""
    if is_remote(address):
        details = details_of(address)
        return file_info(details) if details else fs.FileInfo(address, fs.FileType.NotFound)
    path = local_path(address)
    with naming(address):
        info = fs.LocalFileSystem().get_file_info(path)
        if info.type == fs.FileType.Unknown:
            check_regular(address, os.stat(path).st_mode)
    return info


def kind(address: str) -> fs.FileType:
    """Whether an address is a file, a folder or nothing."""
    return info_of(address).type


def identity(address: str, hint: str = "check source.path") -> dict[str, Any]:
    """Values that change with a file's content: its size, and its ETag if there is one, else its time.

    Raises ``DataError``, with this ``hint`` for a missing file.
    """
    details = details_of(address) if is_remote(address) else {}
    info = file_info(details) if details else info_of(address)
    if info.type == fs.FileType.NotFound:
        raise DataError(f"{address}: no such file; {hint}")
    tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
    return {"bytes": info.size} | ({"etag": str(tag).strip('"')} if tag else {"modified": info.mtime_ns})


@contextmanager
def open_file(address: str) -> Iterator[NativeFile]:
    """Open for random access. Each read of a remote file is a request, as ``ask`` makes it. Raises as ``naming``."""
    if not is_remote(address):
        with naming(address):
            file = fs.LocalFileSystem().open_input_file(local_path(address))
        with file:
            yield file
        return
    system, path = remote_system(address)  # a file of an archive is closed with its system
    file = ask(address, partial(system.open, path))
    if hasattr(file, "_fetch_range") and file.size:  # fsspec's own reader of ranges
        from fsspec.caching import caches

        fetch, cache = file._fetch_range, caches["all" if file.size <= READ_BYTES else "readahead"]
        file.cache = cache(READ_BYTES, lambda start, stop: ask(address, partial(fetch, start, stop)), file.size)
    with file:
        yield pa.PythonFile(file, mode="r")


def read_range(address: str, start: int, stop: int, sha256: str | None = None) -> bytes:
    """The bytes ``start`` to ``stop`` of a file, which have this hash; of a remote file by one request, repeated if it
    fails. Raises ``DataError``.
    """

    def request() -> bytes:
        if is_remote(address):
            system, path = remote_system(address)
            data: bytes = system.cat_file(path, start=start, end=stop) if start < stop else b""
        else:
            with open_file(address) as file:
                file.seek(start)
                data = file.read(stop - start)
        if len(data) > stop - start:
            raise DataError(f"{address}: {NO_RANGES}")
        if len(data) < stop - start:
            raise DataError(f"{address}: ended at byte {start + len(data)}, not {stop}: it changed while it was read")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            problem = f"its bytes from {start} to {stop} are not those that were published: damaged or replaced"
            raise DataError(f"{address}: {problem}")
        return data

    return ask(address, request)


def codec_of(address: str) -> str | None:
    """The compression, from the suffix of the name; None without one."""
    return CODEC_BY_SUFFIX.get(Path(without_query(address).lower()).suffix)


def iter_bytes(address: str) -> Iterator[bytes]:
    """The content of a file in bounded pieces, decompressed. Raises ``DataError`` if it unpacks to far more than texts
    do, and if it cannot be read.
    """
    codec = codec_of(address)
    packed_bytes = (info_of(address).size or UNKNOWN_BYTES) if codec else 0
    num_bytes = 0
    with open_file(address) as file, naming(address):
        source = file if codec is None else pa.CompressedInputStream(file, codec)
        while chunk := source.read(READ_BYTES):
            num_bytes += len(chunk)
            if codec is not None:
                check_unpacked(address, num_bytes, packed_bytes)
            yield chunk


def sha256(address: str) -> str:
    """The sha256 of a file's bytes on disk, as hex."""
    with open_file(address) as file, naming(address):
        return sha256_of(file)


def fetch_repository(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository of the Hugging Face hub, ``owner/name`` or ``owner/name@revision``, with the files of
    these patterns; they are fetched unless they are here. Raises ``DataError``.
    """
    require_package("huggingface_hub", name, "hub")
    import huggingface_hub.utils

    repository, _, revision = name.removeprefix(HUB).rstrip("/").partition("@")
    try:
        huggingface_hub.utils.disable_progress_bars()  # whose cursor movements a command would escape
        folder = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=[*patterns])
    except Exception as error:  # of every kind: network, names, permissions
        problem = f"is not on this machine, and the hub does not give it ({one_line(error.__cause__ or error)})"
        raise DataError(f"{name}: {problem}; check name and network, or copy its folder here and name that") from None
    return Path(folder)
