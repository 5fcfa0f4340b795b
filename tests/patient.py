# SPDX-License-Identifier: Apache-2.0
"""Gives trackers minutes to begin and to end, in a command and its child processes.

A tracker runs at a low priority, and W&B alone takes seconds of CPU time to begin: next to other tests it may need more
than the 15 s that a short run waits for it. Tests of what W&B receives, not of the wait, give it ``LIMIT_S``.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.commands import ROOT

LIMIT_S = 150
SITE = f"""
import importlib.machinery, os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "harness.tracking.tracking":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module
        def patiently(module):
            load(module)
            module.FINISH_S = module.SHORT_FINISH_S = {LIMIT_S}.0
        spec.loader.exec_module = patiently
        return spec
sys.meta_path.insert(0, Finder())
os.nice = lambda increment: 0
"""
"""A ``sitecustomize`` module: every interpreter waits so long, that of the tracker too, which keeps its priority. It
imports nothing of ours: a launcher wants its stop signals before the first library starts a thread."""


def patience(folder: Path) -> str:
    """Write the module below ``folder``, once; the PYTHONPATH with which interpreters find it, and padless."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    return f"{site}{os.pathsep}{ROOT}"
