# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the package ``trackio`` that misbehaves as ``FAKE_TRACKER`` says.

It appends its rows to the file ``FAKE_ROWS``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.helpers.commands import ROOT

FAKE_TRACKIO = """
import os, time

def misbehave(moment):
    how = os.environ["FAKE_TRACKER"].split("-")
    if how[0] == "sleep" and how[1] in (moment, "everywhere"):
        while True:
            time.sleep(1)
    if how[0] == "raise" and how[1] in (moment, "everywhere"):
        raise ConnectionError("no such\\nserver")

class Run:
    def log(self, values, step=None):
        misbehave("log")
        with open(os.environ["FAKE_ROWS"], "a") as file:
            print(step, sorted(values), file=file)
    def finish(self):
        misbehave("finish")

class Config(dict):
    def update(self, values, allow_val_change=False):
        pass

config = Config()

def init(project, name, resume):
    misbehave("start")
    return Run()
"""


def install(folder: Path, monkeypatch: Any) -> Path:
    """Write the package into ``folder``, where this process and others find it; the file of its rows."""
    (folder / "fakes").mkdir()
    (folder / "fakes" / "trackio.py").write_text(FAKE_TRACKIO)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{folder / 'fakes'}")
    monkeypatch.syspath_prepend(folder / "fakes")
    monkeypatch.setenv("FAKE_ROWS", str(folder / "rows"))
    monkeypatch.setenv("FAKE_TRACKER", "none")
    return folder / "rows"
