# SPDX-License-Identifier: Apache-2.0
"""Local and remote files through Arrow's file systems: find, measure, open, stream."""

from __future__ import annotations

import glob
import hashlib
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import ArrowException, NativeFile, fs

from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.untrusted import check_regular, check_unpacked, one_line, sha256_of

READ_BYTES = 8 << 20
CODEC_BY_SUFFIX = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
COMPRESSED_SUFFIXES = tuple(CODEC_BY_SUFFIX)
UNKNOWN_BYTES = 1 << 28
"""Assumed size of a file if the server does not report it."""
REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""What no name has: a zero byte, bytes that are not UTF-8."""
FAILURES = (OSError, ArrowException, UnicodeDecodeError)
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Longest pauses between the attempts of a remote request."""
T = TypeVar("T")


@contextmanager
def naming(address: str, name: str | None = None) -> Iterator[None]:
    """Raise read errors as a ``DataError`` that names the address; remote drivers raise exceptions of any type."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FAILURES) or is_remote(address):
            problem = absence(address) if isinstance(error, FileNotFoundError) else one_line(error)
            is_packed = without_query(address).lower().endswith(COMPRESSED_SUFFIXES)
            hint = "; end its name as what it is, or pack or copy it again" if is_packed else ""
            raise DataError(f"{name or address}: {problem}{hint}") from None
        raise


def absence(address: str) -> str:
    """The reason why there is nothing at an address; of a web address, fsspec does not say which it is."""
    if address == "-":
        return "standard input is not read here, only files"
    return "no such file" + (", or no answer from its server" if address.startswith(("http://", "https://")) else "")


def patiently(address: str, request: Callable[[], T]) -> T:
    """The result of a request; a remote one is repeated after a cut connection, a 429, a 503, or bytes that are wrong.

    Raises ``DataError``, at once for what is missing or forbidden, and without credentials.
    """
    with naming(address):
        for pause in PAUSES_S if is_remote(address) else ():
            try:
                return request()
            except Exception as error:
                if isinstance(error, FileNotFoundError | PermissionError) or "credentials" in str(error):
                    raise
                time.sleep(pause * random.uniform(0.5, 1.0))  # processes that failed together ask again apart
        return request()


def is_remote(address: str) -> bool:
    """Whether an address names a protocol other than the local file system."""
    return bool(REMOTE.match(address))


def without_query(address: str) -> str:
    """A web address without query and fragment, such as the signature of a presigned one; others unchanged."""
    return re.split("[?#]", address, maxsplit=1)[0] if address.startswith(("http://", "https://")) else address


def filesystem(address: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path on it. Raises ``ConfigError`` if fsspec has no driver for it."""
    if not is_remote(address):
        return fs.LocalFileSystem(), local_path(address)
    with naming(address):
        try:
            import fsspec

            remote, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, TypeError) as error:  # TypeError: a driver that needs more than an address
            problem = f"no driver for {address.partition(':')[0]}:// ({one_line(error)})"
            raise ConfigError(f"{address}: {problem}; pip install 'padless[remote]'") from None
    return fs.PyFileSystem(fs.FSSpecHandler(remote)), path


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
    system, path = filesystem(address)
    if not glob.has_magic(without_query(path)) or kind(address) != fs.FileType.NotFound:
        return [address]
    with naming(address):
        names = system.handler.fs.glob(path) if is_remote(address) else glob.glob(path, recursive=True)
    matches = [prefix(address, path) + name for name in sorted(names)]
    if files := [name for name in matches if kind(name) != fs.FileType.Directory]:
        return files
    raise DataError(f"{address}: no file matches; check the pattern")


def list_folder(address: str) -> list[tuple[str, fs.FileInfo]]:
    """All files below a folder, with their addresses; none if it does not exist.

    Raises ``DataError`` for names not in UTF-8.
    """
    system, path = filesystem(address)
    with naming(address):
        matches = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return [(prefix(address, path) + info.path, info) for info in matches if info.type == fs.FileType.File]


def info_of(address: str) -> fs.FileInfo:
    """Type, size and time of a file. Raises ``DataError`` for what is neither a file nor a folder."""
    system, path = filesystem(address)
    with naming(address):
        info = patiently(address, lambda: system.get_file_info(path))
        if info.type == fs.FileType.Unknown and not is_remote(address):
            check_regular(address, os.stat(path).st_mode)
    return info


def kind(address: str) -> fs.FileType:
    """Whether an address is a file, a folder or nothing."""
    return info_of(address).type


def identity(address: str, hint: str = "check source.path") -> dict[str, Any]:
    """Values that change with a file's content: its size, and its ETag if there is one, else its time.

    Raises ``DataError``, with this ``hint`` for a missing file.
    """
    system, path = filesystem(address)
    info = info_of(address)
    if info.type == fs.FileType.NotFound:
        raise DataError(f"{address}: no such file; {hint}")
    details: dict[str, Any] = {}
    if is_remote(address):
        details = patiently(address, partial(system.handler.fs.info, path))
    tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
    return {"bytes": info.size} | ({"etag": str(tag).strip('"')} if tag else {"modified": info.mtime_ns})


def open_file(address: str) -> NativeFile:
    """Open for random access. Raises ``DataError``."""
    system, path = filesystem(address)
    with naming(address):
        return system.open_input_file(path)


def read_range(address: str, start: int, stop: int, sha256: str | None = None) -> bytes:
    """The bytes ``start`` to ``stop`` of a file, which have this hash; of a remote file by one request, repeated if it
    fails. Raises ``DataError``.
    """
    system, path = filesystem(address)

    def request() -> bytes:
        if is_remote(address):
            data: bytes = system.handler.fs.cat_file(path, start=start, end=stop) if start < stop else b""
        else:
            with system.open_input_file(path) as file:
                file.seek(start)
                data = file.read(stop - start)
        if len(data) != stop - start:
            raise OSError(f"ended at byte {start + len(data)}, expected {stop}: it changed while it was read")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise OSError(f"its bytes from {start} to {stop} are not those that were published: damaged or replaced")
        return data

    return patiently(address, request)


def codec_of(address: str) -> str | None:
    """The compression, from the suffix of the name; None without one."""
    return CODEC_BY_SUFFIX.get(Path(without_query(address).lower()).suffix)


def iter_bytes(address: str) -> Iterator[bytes]:
    """The content of a file in bounded pieces, decompressed. Raises ``DataError`` if it unpacks to far more than texts
    do, and if it cannot be read.
    """
    codec = codec_of(address)
    packed_bytes = (info_of(address).size or UNKNOWN_BYTES) if codec else 0
    system, path = filesystem(address)
    num_bytes = 0
    with naming(address), system.open_input_stream(path, compression=codec) as source:
        while chunk := source.read(READ_BYTES):
            num_bytes += len(chunk)
            if codec is not None:
                check_unpacked(address, num_bytes, packed_bytes)
            yield chunk


def sha256(address: str) -> str:
    """The sha256 of a file's bytes on disk, as hex."""
    system, path = filesystem(address)  # a file of an archive is closed with its system
    with naming(address), system.open_input_stream(path, compression=None) as file:
        return sha256_of(file)
