# SPDX-License-Identifier: Apache-2.0
"""The value of a key that follows from the corpus."""

from __future__ import annotations

from typing import Literal

Auto = Literal["auto"]
