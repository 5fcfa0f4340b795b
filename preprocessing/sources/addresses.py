# SPDX-License-Identifier: Apache-2.0
"""Finds local and remote files, and opens them; of a remote file, its copy in this node's cache.

A remote file is copied whole by one process of a node, and every process reads that copy. While a store does not
answer, it is asked again.

**Limit.** Before the copies reach ``$PADLESS_CACHE_GB``, some are removed at random. No process waits for room: one
that has opened a removed copy can still read it, others fetch it again.
"""

from __future__ import annotations

import glob
import hashlib
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import ConfigError, DataError, UserError
from padless.core.installed import require_package
from padless.core.processes import lock_file
from padless.core.terminal import print_stderr
from padless.core.untrusted import check_regular, check_unpacked, one_line

READ_BYTES = 8 << 20
CODEC_BY_SUFFIX = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
COMPRESSED_SUFFIXES = tuple(CODEC_BY_SUFFIX)
REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
HUB = "hf://"
UNUSABLE = re.compile("[\0\ud800-\udfff]")
"""What no name has: a zero byte, bytes that are not UTF-8."""
FAILURES = (OSError, pa.ArrowException, UnicodeDecodeError)
LASTING = (UserError, PermissionError, IsADirectoryError, ImportError, ValueError, TypeError, LookupError)
"""Failures that another attempt would meet again."""
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
"""Longest pauses between the attempts of a remote request: two minutes together."""
REPORTED_PAUSE_S = 2.0
"""From this pause on, people are told that a store does not answer."""
REFUSED = re.compile("credentials|validation failed")
"""In errors of S3's driver about what it was given."""
CACHE_VARIABLE, LIMIT_VARIABLE = "PADLESS_CACHE", "PADLESS_CACHE_GB"
CACHE_HINT = f"name another folder by ${CACHE_VARIABLE}"
LOCK_TIMEOUT_S = 3600.0
SPARE_SHARE = 1 / 4
"""Share of the limit that is free after copies were removed."""
T = TypeVar("T")


@dataclass(frozen=True)
class FileInfo:
    """What a file system says of a file or folder."""

    is_folder: bool
    bytes: int
    version: dict[str, Any]
    """``{"etag": …}`` or ``{"modified": nanoseconds}``: another one if the content changed."""


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
        if is_full_disk(error) or not (isinstance(error, FAILURES) or is_remote(address)):
            raise
        if is_remote(address) and is_outage(error):
            problem = f"its store does not answer ({one_line(error.__cause__ or error)}); check network and address"
            raise UserError(f"{name or address}: {problem}, and run this again") from None
        problem = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
        is_packed = without_query(address).lower().endswith(COMPRESSED_SUFFIXES)
        hint = "; end its name as what it is, or pack or copy it again" if is_packed else ""
        raise DataError(f"{name or address}: {problem}{hint}") from None


def is_full_disk(error: BaseException) -> bool:
    """Whether a copy of a remote file has no room here."""
    return isinstance(error, OSError) and error.errno in atomic.NO_ROOM


def is_outage(error: BaseException | None) -> bool:
    """Whether a request that failed so may succeed later: no connection, a 429, a server's own error."""
    if isinstance(error, FileNotFoundError):  # fsspec raises it for any failure of a web server
        error = error.__cause__
    status = getattr(error, "status", getattr(getattr(error, "response", None), "status_code", None))
    if isinstance(status, int):
        return status >= 500 or status in (408, 429)
    if error is None or isinstance(error, LASTING) or is_full_disk(error):
        return False
    return not REFUSED.search(str(error))


def ask(address: str, request: Callable[[], T]) -> T:
    """The result of a remote request, which is repeated while the store does not answer. Raises as ``naming`` does."""
    with naming(address):
        for pause in PAUSES_S:
            try:
                return request()
            except Exception as error:
                if not is_outage(error):
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
    """The absolute path of a local address. Raises ``DataError`` for a name that is not UTF-8."""
    if not address or UNUSABLE.search(address):
        raise DataError(f"{address!r}: no file has such a name, or it is not UTF-8; rename it")
    return str(Path(os.path.expanduser(address)).absolute())


def absolute(address: str) -> str:
    """The absolute address."""
    return address if is_remote(address) else local_path(address)


def find_files(address: str) -> list[str]:
    """The files of an address: itself, or the sorted matches of its glob.

    As in :mod:`glob`, ``*``, ``?`` and ``[…]`` match within one name and ``**`` any number of folders. An existing name
    is not read as a glob. Raises ``DataError`` if no file matches.
    """
    if not glob.has_magic(without_query(address)) or find_file_info(address):
        return [address]
    if is_remote(address):
        system, path = remote_system(address)
        matches = [address_of(address, path, name) for name in ask(address, partial(system.glob, path))]
    else:
        matches = glob.glob(os.path.expanduser(address), recursive=True)
    if files := [name for name in sorted(matches) if (info := find_file_info(name)) and not info.is_folder]:
        return files
    raise DataError(f"{address}: no file matches; check the pattern")


def list_folder(address: str) -> list[tuple[str, FileInfo]]:
    """All files below a folder, with their addresses; none if it does not exist.

    Raises ``DataError`` for names not in UTF-8.
    """
    if is_remote(address):
        system, path = remote_system(address)
        details = ask(address, partial(system.find, path, detail=True))
        return [(address_of(address, path, name), info_from_store(values)) for name, values in details.items()]
    selector = fs.FileSelector(local_path(address), recursive=True, allow_not_found=True)
    with naming(address):
        infos = fs.LocalFileSystem().get_file_info(selector)
    return [(info.path, info_from_arrow(info)) for info in infos if info.type == fs.FileType.File]


def address_of(address: str, path: str, name: str) -> str:
    """The address of a ``name`` in a store, where ``path`` is that of ``address``."""
    address = address.rstrip("/")
    return (address.removesuffix(path) if address.endswith(path) else "") + name


def info_from_arrow(info: fs.FileInfo) -> FileInfo:
    """What Arrow says of a local file or folder."""
    return FileInfo(info.type == fs.FileType.Directory, info.size or 0, {"modified": info.mtime_ns})


def info_from_store(details: dict[str, Any]) -> FileInfo:
    """What fsspec says of a remote file or folder."""
    tag = details.get("ETag") or details.get("etag") or details.get("md5Hash")
    version = {"etag": str(tag).strip('"')} if tag else {"modified": str(details.get("mtime"))}
    return FileInfo(details["type"] == "directory", details.get("size") or 0, version)


def find_file_info(address: str) -> FileInfo | None:
    """What is at an address; None for nothing. Raises ``DataError`` for what is neither a file nor a folder."""
    if is_remote(address):
        return ask(address, partial(find_remote_info, *remote_system(address)))
    path = local_path(address)
    with naming(address):
        info = fs.LocalFileSystem().get_file_info(path)
        if info.type == fs.FileType.Unknown:
            check_regular(address, os.stat(path).st_mode)
    return None if info.type == fs.FileType.NotFound else info_from_arrow(info)


def find_remote_info(system: Any, path: str) -> FileInfo | None:
    """What a store says of a path; None if it has nothing there."""
    try:
        return info_from_store(system.info(path))
    except FileNotFoundError as error:
        if is_outage(error):
            raise
        return None


def identity(address: str, hint: str = "check source.path") -> dict[str, Any]:
    """Values that change with a file's content: its size, and its ETag if there is one, else its time.

    Raises ``DataError``, with this ``hint`` for a missing file.
    """
    info = find_file_info(address)
    if info is None:
        raise DataError(f"{address}: no such file; {hint}")
    return {"bytes": info.bytes, **info.version}


@contextmanager
def open_file(address: str, name: str | None = None) -> Iterator[pa.NativeFile]:
    """Open for random access. Raises as ``naming``, also where the file is read."""
    with (
        naming(address, name),
        open_copy(address, pa.OSFile) if is_remote(address) else pa.OSFile(local_path(address)) as file,
    ):
        yield file


def read_address(address: str, max_bytes: int) -> bytes:
    """All of a small file, of which ``max_bytes`` are read. Raises as ``naming``."""
    with open_file(address) as file:
        return bytes(file.read(min(max_bytes, file.size())))


def open_copy(address: str, open_path: Callable[[str], T], sha256: str | None = None) -> T:
    """``open_path`` of the copy of a remote file in the cache, which is made if ``open_path`` fails.

    Raises ``DataError`` for bytes of another ``sha256``, and as ``ask``; ``UserError`` if another process has not made
    it in time.
    """
    key = sha256 or hashlib.sha256(atomic.canonical_json([address, identity(address)])).hexdigest()
    folder = cache_folder() / "files"
    path = folder / key[:2] / key
    busy = UserError(f"{address}: for an hour, another process of this node has been fetching it, or removing files")
    with suppress(OSError, DataError):
        return open_path(str(path))
    with (
        storage_errors(folder, otherwise=CACHE_HINT),
        lock_file(folder / f"{key[:2]}.lock", LOCK_TIMEOUT_S, busy),
        ExitStack() as stack,
    ):
        with suppress(OSError, DataError):  # another process has fetched it
            return open_path(str(path))
        atomic.sweep(path)
        with atomic.replacing(path, lasting=False) as temporary:
            download(address, temporary, sha256)
            stack.enter_context(lock_file(folder / "room.lock", LOCK_TIMEOUT_S, busy))
            make_room(folder, temporary.stat().st_size)
        return open_path(str(path))  # before another process removes it


def download(address: str, target: Path, sha256: str | None) -> None:
    """Copy a remote file. Raises ``DataError`` for bytes of another ``sha256``, and as ``ask``."""
    system, path = remote_system(address)
    ask(address, partial(system.get_file, path, str(target)))
    if sha256 is not None and atomic.sha256_file(target) != sha256:
        raise DataError(f"{address}: its bytes are not those that were published: damaged or replaced")


def make_room(folder: Path, num_bytes: int) -> None:
    """Remove copies at random until ``num_bytes`` more fit the limit. Hold the lock of the folder.

    Raises ``ConfigError`` for a limit that is no number.
    """
    gigabytes = os.environ.get(LIMIT_VARIABLE) or "inf"
    try:
        limit = float(gigabytes) * 1e9
    except ValueError:
        problem = f"{gigabytes!r} is no number of gigabytes, such as 200 or 0.5"
        raise ConfigError(f"{LIMIT_VARIABLE}: {problem}") from None
    if limit == math.inf:
        return
    bytes_by_path = {path: path.stat().st_size for path in folder.glob("*/*") if "." not in path.name}
    total = num_bytes + sum(bytes_by_path.values())
    if total <= limit:
        return
    for path in random.sample([*bytes_by_path], len(bytes_by_path)):
        if total <= limit * (1 - SPARE_SHARE):
            break
        path.unlink()
        total -= bytes_by_path[path]


def cache_folder() -> Path:
    """The cache of this node: ``$PADLESS_CACHE``, or ``padless`` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base, "padless"))


def iter_bytes(address: str) -> Iterator[bytes]:
    """The content of a file in bounded pieces, decompressed. Raises ``DataError`` if it unpacks to far more than texts
    do, and if it cannot be read.
    """
    codec = CODEC_BY_SUFFIX.get(Path(without_query(address).lower()).suffix)
    num_bytes = 0
    with open_file(address) as file:
        source = file if codec is None else pa.CompressedInputStream(file, codec)
        while chunk := source.read(READ_BYTES):
            num_bytes += len(chunk)
            if codec is not None:
                check_unpacked(address, num_bytes, file.size())
            yield chunk


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
