# SPDX-License-Identifier: Apache-2.0
"""What the launcher sees of an end that was not a good one: which rank left first, how, and what it said."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

DOCUMENTED = {2, 3, 4}
"""Exit codes that a rank chooses; any other one of a rank becomes 1."""
LOST_PAGES = (
    "part of a mapped file was gone when it was read, as when a shard is cut short under a running job; "
    "look at the dataset with python -m preprocessing check, and at its disk"
)
"""What SIGBUS means to a process whose data is mapped."""


@dataclass(frozen=True)
class Failure:
    """What the launcher saw of an end that was not a good one."""

    code: int
    """The exit code to hand on, if the run itself does not say."""
    sentence: str
    signal: str | None = None
    """The stop signal that the launcher was sent, by name."""
    said: bool = False
    """A rank has already printed why."""
    follows: bool = False
    """It left because another rank, perhaps on another machine, was gone."""


def describe_failure(error: Exception) -> Failure:
    """What an exception of the elastic launcher says: the rank that failed first."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, first = min(failures.items(), key=lambda item: (*blame(item[1]), item[0]))
        return describe_exit(int(rank), int(first.exitcode), words_of(first))
    return Failure(1, f"the launcher stopped: {' '.join(str(error).split()) or type(error).__name__}")


def words_of(failure: Any) -> dict[str, Any]:
    """What a rank has left as its last words; nothing of one that was killed, but by an abort after them."""
    left = failure.exitcode > 0 or failure.exitcode == -signal.SIGABRT
    return dict(getattr(failure, "error_file_data", {})) if left else {}


def blame(failure: Any) -> tuple[int, float]:
    """How late to look for the cause at a rank that failed so; failures of one second look alike without its words.

    A rank that was killed comes first, then those that left by themselves, then those that were aborted, as NCCL's
    watchdog does when a peer is gone, then those that left because of that and said so; the elastic agent sends SIGTERM
    to all that are left.
    """
    words = words_of(failure)
    if failure.exitcode == -signal.SIGTERM:
        return 4, failure.timestamp
    if words.get("follows"):
        return 3, words["timestamp"]
    if failure.exitcode < 0:
        return (2 if failure.exitcode == -signal.SIGABRT else 0), failure.timestamp
    return 1, words.get("timestamp", failure.timestamp)


def describe_exit(rank: int, code: int, words: Mapping[str, Any] = MappingProxyType({})) -> Failure:
    """What the exit code of the rank that left first means, below 0 the signal that killed it; and its last words."""
    if code == -signal.SIGBUS:
        return Failure(3, f"rank {rank} was killed by SIGBUS: {LOST_PAGES}")
    said = words.get("message")
    if code < 0 and said is None:
        return Failure(1, f"rank {rank} was killed by {signal.Signals(-code).name}")
    known = code in DOCUMENTED
    sentence = said if isinstance(said, str) else f"rank {rank} ended with exit code {code}"
    return Failure(code if known else 1, sentence, None, known or sentence == said, bool(words.get("follows")))
