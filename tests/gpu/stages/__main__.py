# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.gpu.stages NAME OUT SCRATCH DATA DEVICE CARDS``: one stage, as the driver starts it."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path

from tests.gpu.findings import Findings, Setting


def main(name: str, out: str, scratch: str, data: str, device: str, cards: str) -> int:
    """Run it; 0 if it came to its end, whatever it found."""
    setting = Setting(Path(out), Path(scratch), Path(data), device, int(cards))
    setting.scratch.mkdir(parents=True, exist_ok=True)
    findings = Findings(setting.out / "stages" / f"{name}.json")
    findings.write()
    try:
        import_module(f"tests.gpu.stages.{name}").run(setting, findings)
    except Exception as error:
        traceback.print_exc()
        findings.state, findings.error = "failed", f"{type(error).__name__}: {error}"[:500]
    else:
        findings.state = "done"
    findings.write()
    return 0 if findings.state == "done" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
