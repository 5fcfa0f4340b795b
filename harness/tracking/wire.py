# SPDX-License-Identifier: Apache-2.0
"""The observer's end of the two pipes between it and the trainer."""

from __future__ import annotations

import json
import os
import sys

from preprocessing.base.terminal import public


class Wire:
    """The two pipes to the trainer, moved to file descriptors that the tracker's own code does not use."""

    def __init__(self) -> None:
        """Keep copies of stdin and stdout; then stdin becomes empty, and what is printed goes to the log."""
        self.lines = os.fdopen(os.dup(0), "rb")
        self.replies = os.dup(1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)

    def tell(self, **reply: str) -> None:
        """Answer the trainer, if it still lives; addresses lose their passwords."""
        reply = {key: public(value) for key, value in reply.items()}
        try:
            os.write(self.replies, json.dumps(reply).encode() + b"\n")
        except OSError:
            print(reply, file=sys.stderr)
