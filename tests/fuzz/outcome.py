# SPDX-License-Identifier: Apache-2.0
"""The one question that every fuzz test asks: the same result as undamaged, or one project error, or else a fault."""

from __future__ import annotations

import faulthandler
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from padless.core.errors import ConfigError, UserError

SECONDS = 20.0
"""Longer than any case may take, on a machine that does other things as well."""
GROWTH = 512 << 20
"""Bytes that a case may add to the memory in use."""
ADDRESSES = 6 << 30
"""Bytes of addresses that it may ask for; what asks for more gets a MemoryError."""
LONGEST = 2_000
"""Characters of a sentence."""


class SlowError(BaseException):
    """A case took too long; no ``except Exception`` stops it."""


def outcome(
    function: Callable[[], Any],
    expected: Callable[[Any], bool],
    *names: object,
    seconds: float = SECONDS,
) -> str:
    """``same`` if the result of ``function`` is the ``expected`` one, ``refused`` if it raises one project error.

    Its sentence is one line that a terminal shows as it is and has one of ``names`` in it, or is about a key of the
    configuration. Anything else raises ``AssertionError``: another result, another exception, more time or memory. What
    no signal wakes ends this process, with a traceback.
    """
    bytes_at_start = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew, see proc(5)
    try:
        with limit_resources(seconds):
            result = function()
    except UserError as error:
        is_about_key = isinstance(error, ConfigError)  # a key, where it is the configuration that a file does not fit
        check_sentence(str(error), () if is_about_key else names)
        result_kind = "refused"
    except SlowError:
        raise AssertionError(f"not done after {seconds:g} s") from None
    except Exception as error:
        raise AssertionError(f"neither a result nor a project error: {type(error).__name__}: {error}") from error
    else:
        assert expected(result), "another result than that of the undamaged file"
        result_kind = "same"
    grown = memory("VmHWM") - bytes_at_start
    assert grown <= GROWTH, f"{grown >> 20} MiB more memory than before"
    return result_kind


def check_sentence(sentence: str, names: tuple[object, ...]) -> None:
    """Raise ``AssertionError`` for a sentence that a terminal would obey, or that does not say which file it is."""
    assert sentence.isprintable(), f"not one line of printable characters: {sentence!r}"
    assert len(sentence) <= LONGEST, f"{len(sentence)} characters: {sentence[:200]}…"
    assert not names or any(str(name) in sentence for name in names), f"names no file: {sentence}"


def memory(kind: str) -> int:
    """Bytes of this process: ``VmRSS`` in use, ``VmHWM`` the most that were, ``VmSize`` addresses."""
    match = re.search(rf"^{kind}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) << 10


@contextmanager
def limit_resources(seconds: float) -> Iterator[None]:
    """``SlowError`` after so many seconds, MemoryError for too many addresses; limits of others go on behind it."""

    def late(_: int, __: FrameType | None) -> None:
        raise SlowError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    max_addresses = memory("VmSize") + ADDRESSES
    resource.setrlimit(
        resource.RLIMIT_AS, (max_addresses if hard == resource.RLIM_INFINITY else min(max_addresses, hard), hard)
    )
    handler = signal.signal(signal.SIGALRM, late)
    remaining_s, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, remaining_s)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
